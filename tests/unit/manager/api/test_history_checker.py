# SPDX-License-Identifier: Apache-2.0
"""The checker of certificate histories: does it accept what can happen, and nothing else?"""

from __future__ import annotations

import pytest

from tests.env.history import Event, State, explain

HELD = State("c1", "f1", wanted=True)


def upload(sent: int, answered: int, cert: str = "c1", fingerprint: str = "f1") -> Event:
    """An upload that succeeded."""
    return Event("upload", sent, answered, cert, fingerprint=fingerprint)


POSSIBLE = {
    "one after the other": [
        upload(0, 1), Event("revoke", 2, 3, "c1"), Event("keystore", 4, 5),
    ],
    "overlapping calls in either order": [
        upload(0, 9), Event("revoke", 1, 8, "c1"), Event("keystore", 10, 11),
    ],
    "a list during a revocation may show the state before it": [
        upload(0, 1), Event("revoke", 2, 9, "c1"),
        Event("list", 3, 4, "c1", fingerprint="f1", status="UPLOADED"), Event("keystore", 10, 11),
    ],
    "what is not carried out yet says nothing": [
        upload(0, 1), Event("revoke", 2, 3, "c1"),
        Event("list", 4, 5, "c1", fingerprint="f1", status="FAILED"),
    ],
    "a refusal while the other upload is under way": [
        upload(0, 9), Event("upload", 1, 8, "c2", refused=True, fingerprint="f2"),
    ],
    "a provisioning after the revocation": [
        upload(0, 1), Event("revoke", 2, 9, "c1"), Event("provision", 3, 8, "c1"),
        Event("keystore", 10, 11, fingerprint="f1"),
    ],
    "a second certificate under the alias": [
        upload(0, 1), Event("delete", 2, 3, "c1"), upload(4, 5, "c2", "f2"),
        Event("revoke", 6, 7, "c1", refused=True), Event("keystore", 8, 9, fingerprint="f2"),
    ],
    "a rotation keeps a revocation": [
        upload(0, 1), Event("revoke", 2, 3, "c1"), Event("update", 4, 5, "c1", fingerprint="f2"),
        Event("list", 6, 7, "c1", fingerprint="f2", status="REVOKED"), Event("keystore", 8, 9),
    ],
}  # fmt: skip

IMPOSSIBLE = {
    "a lost revocation": [
        upload(0, 1),
        Event("revoke", 2, 3, "c1"),
        Event("keystore", 4, 5, fingerprint="f1"),
    ],
    "a lost upload": [upload(0, 1), Event("keystore", 2, 3)],
    "a revocation undone by an earlier upload": [
        upload(0, 1),
        Event("provision", 2, 3, "c1"),
        Event("revoke", 4, 5, "c1"),
        Event("list", 6, 7, "c1", fingerprint="f1", status="UPLOADED"),
    ],
    "a list that goes back": [
        upload(0, 1),
        Event("revoke", 2, 19, "c1"),
        Event("list", 3, 4, "c1", fingerprint="f1", status="REVOKED"),
        Event("list", 5, 6, "c1", fingerprint="f1", status="UPLOADED"),
    ],
    "a list of the old certificate after its rotation": [
        upload(0, 1),
        Event("update", 2, 3, "c1", fingerprint="f2"),
        Event("list", 4, 5, "c1", fingerprint="f1", status="UPLOADED"),
    ],
    "two live certificates of one alias": [upload(0, 1), upload(2, 3, "c2", "f2")],
    "a refusal without a reason": [Event("upload", 0, 1, "c1", refused=True, fingerprint="f1")],
    "one deletion answered twice": [
        upload(0, 1),
        Event("delete", 2, 9, "c1"),
        Event("delete", 3, 8, "c1"),
    ],
    "a certificate that outlives its deletion": [
        upload(0, 1),
        Event("delete", 2, 3, "c1"),
        Event("keystore", 4, 5, fingerprint="f1"),
    ],
    "another certificate in the keystore": [
        upload(0, 1),
        Event("keystore", 2, 3, fingerprint="f2"),
    ],
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_a_possible_history_is_explained(name: str) -> None:
    """A checker that rejects what is right would be switched off."""
    order = explain(POSSIBLE[name])
    assert order is not None
    assert sorted(order, key=lambda e: e.sent) == sorted(POSSIBLE[name], key=lambda e: e.sent)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_history_is_rejected(name: str) -> None:
    """A checker that accepts everything proves nothing."""
    assert explain(IMPOSSIBLE[name]) is None


def test_the_state_before_the_history_counts() -> None:
    """Histories may begin with a certificate in place."""
    assert explain([Event("keystore", 0, 1, fingerprint="f1")], HELD)
    assert explain([Event("keystore", 0, 1)], HELD) is None
