# SPDX-License-Identifier: Apache-2.0
"""`NamedTuple` as in `typing`, at a tenth of what defining one costs there.

Every command defines some thirty of them before it does anything, and those of `typing` compile
a constructor each and convert annotations that nobody reads at run time: a quarter of a
millisecond a class. Type checkers see the one of `typing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from _collections import _tuplegetter as field  # what namedtuple itself uses

    class _NamedTupleType(type):
        """Makes the annotated names of a class its fields, in order; values are defaults."""

        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {at: namespace.pop(at) for at in fields if at in namespace}
            if any(at not in defaults for at in fields[len(fields) - len(defaults) :]):
                raise TypeError(f"{name}: a field without a default follows one with a default")
            namespace.update(
                {at: field(number, f"field {number}") for number, at in enumerate(fields)},
                __slots__=(),
                __match_args__=fields,
                _fields=fields,
                _field_defaults=defaults,
            )
            return super().__new__(cls, name, bases, namespace)

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """A tuple whose parts have names; as `typing.NamedTuple`."""

        def __new__(cls, *args: Any, **named: Any) -> Self:
            if named or len(args) != len(cls._fields):
                args = cls._completed(args, named)
            return tuple.__new__(cls, args)

        @classmethod
        def _completed(cls, args: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
            """All values in order; TypeError as a function's for a wrong call."""
            fields, defaults = cls._fields, cls._field_defaults
            if len(args) > len(fields):
                raise TypeError(f"{cls.__name__} takes {len(fields)} values, got {len(args)}")
            values = list(args)
            for at in fields[len(args) :]:
                if at in named:
                    values.append(named.pop(at))
                elif at in defaults:
                    values.append(defaults[at])
                else:
                    raise TypeError(f"{cls.__name__} needs a value for {at!r}")
            if named:
                raise TypeError(f"{cls.__name__} takes no value for {next(iter(named))!r} here")
            return values

        @classmethod
        def _make(cls, values: Any) -> Self:
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} takes {len(cls._fields)} values, got {len(made)}")
            return made

        def _replace(self, /, **changed: Any) -> Self:
            values = [changed.pop(at, value) for at, value in zip(self._fields, self, strict=True)]
            if changed:
                raise ValueError(f"{type(self).__name__} has no field {next(iter(changed))!r}")
            return type(self)(*values)

        def _asdict(self) -> dict[str, Any]:
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self) -> str:
            shown = (f"{at}={value!r}" for at, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"

        def __getnewargs__(self) -> tuple[Any, ...]:
            return tuple(self)


__all__ = ["NamedTuple"]
