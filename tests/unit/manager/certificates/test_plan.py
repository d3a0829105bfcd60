# SPDX-License-Identifier: Apache-2.0
"""Does the plan turn what a host holds into what is wanted, and nothing else?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.manager.certificates.plan import (
    Desired,
    expiry_warning,
    plan,
    retry_delay,
    wanted_on_host,
)
from fastdl.trust.alias import fold

WANTS = st.lists(
    st.builds(
        Desired,
        cert=st.uuids().map(str),
        alias=st.sampled_from(["A", "b", "C", "d"]),
        sha256=st.sampled_from(["1", "2"]),
        present=st.booleans(),
    ),
    unique_by=lambda d: d.alias,
)
HELD = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "foreign"]), st.sampled_from("123"))


@given(WANTS, HELD)
def test_carrying_out_the_plan_leaves_nothing_to_plan(
    wants: list[Desired], held: dict[str, str]
) -> None:
    """One round suffices, it touches only aliases of ours, and a second one is empty."""
    first = plan(wants, held, now=0)
    by_id = {want.cert: want for want in wants}
    after = dict(held)
    for id_ in first.install:
        after[fold(by_id[id_].alias)] = by_id[id_].sha256
    for id_ in first.remove:
        after.pop(fold(by_id[id_].alias), None)
    second = plan(wants, after, now=0)
    assert second.empty
    assert set(second.settled) == set(by_id)
    assert after.get("foreign") == held.get("foreign")


def test_a_failed_push_waits_for_its_time() -> None:
    """A broken host is not asked in a tight loop."""
    want = Desired(cert="c", alias="a", sha256="1", present=True, retry_at=50)
    early, late = plan([want], {}, now=49), plan([want], {}, now=50)
    assert (early.empty, early.later) == (True, 50)
    assert late.install == ("c",)


def test_an_unreadable_keystore_is_tried_not_assumed() -> None:
    """Unknown is neither present nor absent."""
    want = Desired(cert="c", alias="a", sha256="1", present=True)
    assert plan([want], None, now=0).install == ("c",)


def test_a_deleted_certificate_does_not_take_its_successor_along() -> None:
    """The alias was deleted and uploaded anew before the host came back."""
    old = Desired(cert="old", alias="A", sha256="1", present=False)
    new = Desired(cert="new", alias="a", sha256="2", present=True)
    found = plan([old, new], {"a": "1"}, now=0)
    assert (found.install, found.remove, found.settled) == (("new",), (), ("old",))


def test_aliases_are_one_where_a_keystore_takes_them_for_one() -> None:
    """Keystores compare in lower case: ß and ss are two entries there, İ and i̇ are one."""
    eszett = Desired(cert="a", alias="straße", sha256="1", present=True)
    double = Desired(cert="b", alias="STRASSE", sha256="2", present=True)
    assert plan([eszett, double], {"straße": "1"}, now=0).install == ("b",)
    assert plan([eszett, double], {"straße": "1", "strasse": "2"}, now=0).install == ()
    dotted = Desired(cert="c", alias="İ", sha256="3", present=True)
    assert plan([dotted], {"i̇": "3"}, now=0).settled == ("c",)


@pytest.mark.parametrize(
    ("revoked", "deleted", "override", "wanted"),
    [
        (False, False, None, True),
        (True, False, None, False),
        (False, False, "absent", False),
        (True, False, "present", True),
        (False, True, "present", False),
    ],
)
def test_who_wants_what(revoked: bool, deleted: bool, override: str | None, wanted: bool) -> None:
    """One host's revocation or re-upload outranks the zone's."""
    assert wanted_on_host(revoked_in_zone=revoked, deleted=deleted, override=override) is wanted


@given(
    revoked=st.booleans(),
    deleted=st.booleans(),
    others=st.booleans(),
    override=st.sampled_from([None, "present", "absent"]),
)
def test_a_host_goes_without_only_for_a_reason(
    revoked: bool, deleted: bool, others: bool, override: str | None
) -> None:
    """Deleted, revoked on it, or its zone has none: a new host gets what others were given."""
    wanted = wanted_on_host(
        revoked_in_zone=revoked, deleted=deleted, override=override, on_others=others
    )
    without = deleted or override == "absent" or (override is None and revoked and not others)
    assert wanted is not without


def test_retries_slow_down_to_ten_minutes() -> None:
    """A host that stays broken costs one attempt in ten minutes."""
    delays = [retry_delay(n) for n in range(1, 12)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1], retry_delay(10_000)) == (5, 600, 600)


def test_each_threshold_is_warned_of_once() -> None:
    """Thirty days, seven, one, and expired."""
    warned, said = 0, []
    for days in (40, 30, 29, 8, 6.5, 6, 0.9, 0.5, -0.1, -5):
        now = expiry_warning(days * 86400, now=0, warned=warned)
        if now is not None:
            said.append(now)
            warned = now + 1
    assert said == [30, 7, 1, 0]
