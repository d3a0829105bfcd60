# SPDX-License-Identifier: Apache-2.0
"""Is the light NamedTuple what `typing` promises of its own?"""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from fastdl.named_tuple import NamedTuple


class Light(NamedTuple):
    """One with defaults and a method."""

    name: str
    size: int = 1
    parts: tuple[int, ...] = ()

    def twice(self) -> int:
        return 2 * self.size


class Typed(typing.NamedTuple):
    """The same of the standard library."""

    name: str
    size: int = 1
    parts: tuple[int, ...] = ()


CALLS = (
    (("a",), {}),
    (("a", 2), {}),
    (("a", 2, (3,)), {}),
    (("a",), {"parts": (1, 2)}),
    ((), {"parts": (1,), "name": "b"}),
    ((), {}),
    (("a", 2, (3,), 4), {}),
    (("a",), {"name": "b"}),
    (("a",), {"other": 1}),
)


@pytest.mark.parametrize(("args", "named"), CALLS)
def test_it_is_made_as_the_standard_one(args: tuple, named: dict) -> None:
    try:
        wanted = Typed(*args, **named)
    except TypeError:
        with pytest.raises(TypeError):
            Light(*args, **named)
    else:
        made = Light(*args, **named)
        assert made == wanted
        assert hash(made) == hash(wanted)
        assert made._asdict() == wanted._asdict()
        assert repr(made) == repr(wanted).replace("Typed", "Light")
        assert (made.name, made.size, made.parts) == tuple(wanted)
        assert made.twice() == 2 * wanted.size


def test_what_it_offers_besides() -> None:
    one = Light("a", 2)
    assert one._replace(size=3) == Light("a", 3)
    assert type(one._replace(size=3)) is Light
    with pytest.raises(ValueError, match="no field 'length'"):
        one._replace(length=3)
    assert Light._fields == Typed._fields
    assert Light._field_defaults == Typed._field_defaults
    assert Light._make(["a", 2, ()]) == one
    assert copy.deepcopy(one) == one
    assert pickle.loads(pickle.dumps(one)) == one
    match one:
        case Light(name, size=2):
            assert name == "a"
        case _:
            pytest.fail("it matches by position and by name")


def test_nothing_in_it_can_be_set() -> None:
    one = Light("a")
    with pytest.raises(AttributeError):
        one.size = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        one.length = 3  # type: ignore[attr-defined]


def test_a_field_without_a_default_comes_first() -> None:
    with pytest.raises(TypeError, match="default"):

        class _Wrong(NamedTuple):
            size: int = 1
            name: str
