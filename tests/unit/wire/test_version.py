# SPDX-License-Identifier: Apache-2.0
"""Do sides of different ages understand each other, by the rules of the version table? (G06)"""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST, VERSIONS, negotiate
from tests.env.wire_versions import (
    as_spoken_by,
    from_the_future,
    is_known_to,
    shape_now,
    shapes,
    without_later_fields,
)
from tests.unit.wire.test_messages import LIMIT, _instances

MESSAGES = st.sampled_from(get_args(m.Message)).flatmap(_instances)


def test_each_version_has_its_shape_on_record() -> None:
    """Without it nobody could tell whether an old agent is still understood."""
    assert shapes().keys() == VERSIONS.keys()


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_are_only_ever_added_and_never_required(version: int) -> None:
    """An old side sends nothing of what came later, and expects all that it knew (G06)."""
    now = shape_now()
    for name, then in shapes()[version].items():
        assert name in now, f"{name} is gone"
        assert then.keys() <= now[name].keys(), f"fields of {name} are gone"
        required = {field for field, needed in now[name].items() if needed}
        assert required <= {field for field, needed in then.items() if needed}, name


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=150, deadline=None)
@given(message=MESSAGES)
def test_an_old_sides_messages_mean_what_they_meant(version: int, message: m.Message) -> None:
    """What it leaves out has the value that its absence always meant (G06)."""
    assume(is_known_to(version, message))  # an old side never sends what is newer
    heard = codec.decode(as_spoken_by(version, message), limit=LIMIT)
    assert heard == without_later_fields(version, message)


@settings(max_examples=150, deadline=None)
@given(message=MESSAGES)
def test_what_a_newer_side_adds_is_ignored_everywhere(message: m.Message) -> None:
    """In the message, in its parts, and in the parts of its parts (G06)."""
    assert codec.decode(from_the_future(message), limit=LIMIT) == message


@pytest.mark.parametrize(
    ("oldest", "newest"), [(CURRENT + 1, CURRENT + 9), (0, OLDEST - 1), (CURRENT, OLDEST - 1)]
)
def test_outside_the_table_the_sentence_names_both_ranges(oldest: int, newest: int) -> None:
    """Whoever reads it must know which of the two to upgrade (G06)."""
    with pytest.raises(AgentRefusedError) as refused:
        negotiate(oldest, newest)
    assert refused.value.message == (
        f"the other side speaks wire versions {oldest} to {newest}, this one {OLDEST} to "
        f"{CURRENT}: upgrade the older of the two"
    )
