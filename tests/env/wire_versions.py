# SPDX-License-Identifier: Apache-2.0
"""How does a side of another wire version speak? Its messages, made from ours.

``wire_versions.json`` keeps, for each version of the wire, what its messages had when it came
out: message → field → whether it is required. It is written once per version and never changed.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from fastdl.wire import codec
from fastdl.wire import messages as m

FUTURE = {"from_the_future": {"nested": [1, {"deep": None}]}}
"""What a newer side may add to any object."""


@cache
def shapes() -> dict[int, dict[str, dict[str, bool]]]:
    """Version → message → field → required."""
    stored = json.loads((Path(__file__).parent / "wire_versions.json").read_text())
    return {int(version): shape for version, shape in stored.items()}


def shape_now() -> dict[str, dict[str, bool]]:
    """The same of the messages as they are."""
    found: dict[str, dict[str, bool]] = {}
    todo = [*get_args(m.Message), *codec._ARGS.values(), *codec._DONE.values()]
    while todo:
        cls = todo.pop()
        if cls.__name__ in found:
            continue
        fields = {f.name: is_required(f) for f in dataclasses.fields(cls)}
        if cls is m.Command:
            fields["args"] = True
        found[cls.__name__] = fields
        for hint in get_type_hints(cls).values():
            todo += [c for c in classes_in(hint) if dataclasses.is_dataclass(c)]
    return dict(sorted(found.items()))


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a message without this field is refused."""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def classes_in(hint: Any) -> list[Any]:
    """The classes that an annotation names."""
    if get_origin(hint) in {Union, types.UnionType, tuple, Mapping, Annotated}:
        return [c for part in get_args(hint) for c in classes_in(part)]
    return [hint] if isinstance(hint, type) else []


def is_known_to(version: int, value: Any) -> bool:
    """Whether a side of *version* has words for *value* (a message or a part) and all in it."""
    if isinstance(value, tuple):
        return all(is_known_to(version, item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return True
    if type(value).__name__ not in shapes()[version]:
        return False
    return all(is_known_to(version, getattr(value, f.name)) for f in dataclasses.fields(value))


def as_spoken_by(version: int, message: m.Message) -> str:
    """*message* from a side of *version*: only its fields, and only those it must send."""

    def old(value: Any, plain: Any) -> Any:
        if isinstance(value, tuple):
            return [old(v, p) for v, p in zip(value, plain, strict=True)]
        if not dataclasses.is_dataclass(value):
            return plain
        known = shapes()[version][type(value).__name__]
        default = {f.name: _default(f) for f in dataclasses.fields(value)}
        return {
            name: old(getattr(value, name), plain[name])
            for name, required in known.items()
            if name in plain and (required or getattr(value, name) != default[name])
        }

    return _text(message, old(message, codec.to_plain(message)))


def without_later_fields(version: int, value: Any) -> Any:
    """*value* (a message or a part of one) with the defaults of what came after *version*."""
    if isinstance(value, tuple):
        return tuple(without_later_fields(version, item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    known = shapes()[version][type(value).__name__]
    return dataclasses.replace(
        value,
        **{
            f.name: without_later_fields(version, getattr(value, f.name))
            if f.name in known
            else _default(f)
            for f in dataclasses.fields(value)
        },
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def from_the_future(message: m.Message) -> str:
    """*message* from a newer side: every object in it has a field that nobody knows."""

    def newer(value: Any, plain: Any) -> Any:
        if isinstance(value, tuple):
            return [newer(v, p) for v, p in zip(value, plain, strict=True)]
        if not dataclasses.is_dataclass(value):
            return plain
        return FUTURE | {k: newer(getattr(value, k), p) for k, p in plain.items()}

    return _text(message, newer(message, codec.to_plain(message)))


def _text(message: m.Message, plain: dict[str, Any]) -> str:
    return json.dumps({"type": type(message).__name__, **plain})


Dialect = Callable[[m.Message], str]
"""How one side puts a message into words."""
