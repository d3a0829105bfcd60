# SPDX-License-Identifier: Apache-2.0
"""How messages become JSON and JSON becomes messages: strictly, with limits, without I/O.

A message is one JSON object with a ``type`` (the class name of ``fastdl.wire.messages``).
Decoders are built once per class from the annotations there, so that a field's limit stands
next to the field. Unknown fields are ignored (an old side understands a new one); a wrong type,
a value beyond its limit, a repeated key, NaN, or a message beyond its size is refused.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from fastdl.errors import BY_CODE, AgentRefusedError, FastdlError, InternalError, as_error
from fastdl.wire import messages as m
from fastdl.wire.limits import Text, Whole

Decoder = Callable[[Any, str], Any]

_TYPES: Final[dict[str, type]] = {cls.__name__: cls for cls in get_args(m.Message)}

_ARGS: Final[dict[str, type]] = {
    m.Kind.DOWNLOAD: m.DownloadArgs,
    m.Kind.REMOVE: m.RemoveArgs,
    m.Kind.CERTIFICATES: m.CertificatesArgs,
    m.Kind.PROBE: m.ProbeArgs,
    m.Kind.CHECK: m.CheckArgs,
    m.Kind.COPIES: m.CopiesArgs,
    m.Kind.AUDIT: m.AuditArgs,
    m.Kind.DOCUMENTS: m.DocumentsArgs,
    m.Kind.MACHINE: m.MachineArgs,
    m.Kind.CONSOLE: m.ConsoleArgs,
}
_DONE: Final[dict[str, type]] = {
    m.Kind.DOWNLOAD: m.DownloadDone,
    m.Kind.REMOVE: m.RemoveDone,
    m.Kind.CERTIFICATES: m.CertificatesDone,
    m.Kind.PROBE: m.ProbeDone,
    m.Kind.CHECK: m.CheckDone,
    m.Kind.COPIES: m.CopiesDone,
    m.Kind.AUDIT: m.AuditDone,
    m.Kind.DOCUMENTS: m.DocumentsDone,
    m.Kind.MACHINE: m.MachineDone,
    m.Kind.CONSOLE: m.ConsoleDone,
}


def encode(message: m.Message) -> str:
    """Return *message* as compact JSON; fields that are None are left out."""
    plain = to_plain(message)
    return json.dumps({"type": type(message).__name__, **plain}, separators=(",", ":"))


def decode(data: str | bytes, *, limit: int) -> m.Message | None:
    """Return the message in *data*, or None for a type this version does not know.

    *limit* is the largest size in bytes (``TO_MANAGER_MAX``, ``TO_AGENT_MAX``, ``ENROL_MAX``).
    Raises AgentRefusedError with the field's path for anything malformed or too large.
    """
    plain = parse_json(data, limit=limit)
    name = plain.get("type")
    if not isinstance(name, str):
        raise AgentRefusedError("a message without a type")
    cls = _TYPES.get(name)
    if cls is None:
        return None
    message: m.Message = _dataclass_decoder(cls)(plain, name)
    return message


def parse_json(data: str | bytes, *, limit: int) -> dict[str, Any]:
    """Return the JSON object in *data*; AgentRefusedError unless it is exactly one."""
    # UTF-8 needs at least one byte a character, so the cheap test comes first.
    if len(data) > limit or (isinstance(data, str) and len(data.encode(errors="replace")) > limit):
        raise AgentRefusedError(f"a message of more than {limit} bytes")
    try:
        plain = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as exc:
        raise AgentRefusedError(f"a message that is not JSON: {str(exc)[:120]}") from exc
    if not isinstance(plain, dict):
        raise AgentRefusedError("a message that is not a JSON object")
    return plain


def args_to_json(args: m.Args) -> str:
    """Return a command's arguments as JSON, as ledgers and journals keep them."""
    return json.dumps(to_plain(args), separators=(",", ":"))


def args_from_json(kind: str, text: str) -> m.Args:
    """The reverse of ``args_to_json``; UnknownArgs for a kind this version does not know."""
    return _args(kind, parse_json(text, limit=m.TO_AGENT_MAX), "args")


def done_to_json(done: m.Done) -> str:
    """Return a result as JSON."""
    return json.dumps(to_plain(done), separators=(",", ":"))


def done_from_json(kind: str, text: str) -> m.Done:
    """The reverse of ``done_to_json``; AgentRefusedError for an unknown kind."""
    return _done(kind, parse_json(text, limit=m.TO_MANAGER_MAX), "done")


def failure_of(exc: BaseException) -> m.Failure:
    """Return *exc* as it crosses the wire; anything but a FastdlError is a bug (code 74)."""
    error = as_error(exc)
    return m.Failure(
        code=error.exit_code,
        message=error.message[:4096],
        phase=error.phase[:32] if error.phase else None,
        origin=error.origin[:4096] if error.origin else None,
        retryable=error.retryable,
        elsewhere=error.retry_elsewhere,
        http_status=error.http_status,
        retry_after_s=error.retry_after_s,
        public_source=error.public_source,
    )


def error_of(failure: m.Failure) -> FastdlError:
    """Return the error that *failure* stands for (InternalError for a code nobody knows)."""
    return BY_CODE.get(failure.code, InternalError)(
        failure.message,
        phase=failure.phase,
        origin=failure.origin,
        retryable=failure.retryable,
        http_status=failure.http_status,
        retry_after_s=failure.retry_after_s,
        public_source=failure.public_source,
    )


def to_plain(value: Any) -> Any:
    """Return *value* (a message or a part of one) as JSON's own types.

    Characters that no text of the wire has become question marks: names of files, pools and
    aliases may have any bytes in them, and a message that is refused takes its host along.
    """
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return value if value.isascii() and "\x00" not in value else _cleaned(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name))
            for f in fields(value)
            if getattr(value, f.name) is not None
        }
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    return value


def _cleaned(text: str) -> str:
    return text.replace("\x00", "?").encode(errors="replace").decode()


def from_plain(cls: type, plain: Any) -> Any:
    """Return an instance of the message class *cls* from JSON's own types."""
    return _dataclass_decoder(cls)(plain, cls.__name__)


# --- decoders, one per type, built once --------------------------------------------------


def _refuse(path: str, what: str) -> AgentRefusedError:
    return AgentRefusedError(f"{path}: {what}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key occurs twice")
    return plain


def _text(limit: Text) -> Decoder:
    def decode_text(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise _refuse(path, "not a string")
        if not limit.least <= len(value) <= limit.most:
            raise _refuse(path, f"not between {limit.least} and {limit.most} characters")
        if "\x00" in value or (not value.isascii() and _has_surrogate(value)):
            raise _refuse(path, "a character that is not allowed")
        return value

    return decode_text


def _has_surrogate(value: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in value)


def _whole(limit: Whole) -> Decoder:
    def decode_whole(value: Any, path: str) -> int:
        if type(value) is not int:
            raise _refuse(path, "not a whole number")
        if not limit.least <= value <= limit.most:
            raise _refuse(path, f"not between {limit.least} and {limit.most}")
        return value

    return decode_whole


def _float(value: Any, path: str) -> float:
    if type(value) not in {int, float}:
        raise _refuse(path, "not a number")
    if abs(value) > 1e15 or not math.isfinite(value):
        raise _refuse(path, "not a number within 1e15")
    return float(value)


def _bool(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _refuse(path, "neither true nor false")
    return value


def _enum(cls: type[StrEnum]) -> Decoder:
    def decode_enum(value: Any, path: str) -> StrEnum:
        try:
            return cls(value)
        except ValueError:
            raise _refuse(path, f"not one of {', '.join(cls)}") from None

    return decode_enum


def _optional(inner: Decoder) -> Decoder:
    return lambda value, path: None if value is None else inner(value, path)


def _tuple(parts: tuple[Any, ...], most: int) -> Decoder:
    if parts[-1] is not Ellipsis:
        inner = [_decoder(part) for part in parts]

        def decode_fixed(value: Any, path: str) -> tuple[Any, ...]:
            if not isinstance(value, list) or len(value) != len(inner):
                raise _refuse(path, f"not a list of {len(inner)}")
            return tuple(d(v, path) for d, v in zip(inner, value, strict=True))

        return decode_fixed
    each = _decoder(parts[0])

    def decode_many(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _refuse(path, "not a list")
        if len(value) > most:
            raise _refuse(path, f"more than {most} elements")
        return tuple(each(v, f"{path}[{i}]") for i, v in enumerate(value))

    return decode_many


def _mapping(key_type: Any, value_type: Any, most: int) -> Decoder:
    key, each = _decoder(key_type), _decoder(value_type)

    def decode_mapping(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _refuse(path, "not an object")
        if len(value) > most:
            raise _refuse(path, f"more than {most} elements")
        return {key(k, path): each(v, f"{path}.{k}") for k, v in value.items()}

    return decode_mapping


def _decoder(hint: Any, limit: Any = None) -> Decoder:
    """Return the decoder for one annotation of ``messages``."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *limits = get_args(hint)
        return _decoder(inner, limits[0])
    if origin in {Union, types.UnionType}:
        inner, none = get_args(hint)
        assert none is types.NoneType, hint
        return _optional(_decoder(inner, limit))
    if origin is tuple:
        return _tuple(get_args(hint), limit.most if limit else 0)
    if origin is Mapping:
        key, value = get_args(hint)
        return _mapping(key, value, limit.most)
    if hint is str:
        return _text(limit)
    if hint is int:
        return _whole(limit)
    if hint is float:
        return _float
    if hint is bool:
        return _bool
    if issubclass(hint, StrEnum):
        return _enum(hint)
    return _dataclass_decoder(hint)


@cache
def _dataclass_decoder(cls: type) -> Decoder:
    hints = get_type_hints(cls, include_extras=True)
    required: dict[str, Decoder] = {}
    optional: dict[str, Decoder] = {}
    for f in fields(cls):
        if (cls, f.name) in {(m.Command, "args"), (m.JobResult, "done")}:
            continue  # decided by ``kind``, below
        has_default = f.default is not MISSING or f.default_factory is not MISSING
        (optional if has_default else required)[f.name] = _decoder(hints[f.name])

    def decode_dataclass(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise _refuse(path, "not an object")
        found = {}
        for name, decoder in required.items():
            if name not in value:
                raise _refuse(path, f"without {name}")
            found[name] = decoder(value[name], f"{path}.{name}")
        for name, decoder in optional.items():
            if name in value:
                found[name] = decoder(value[name], f"{path}.{name}")
        if cls is m.Command:
            found["args"] = _args(found["kind"], value.get("args"), f"{path}.args")
        elif cls is m.JobResult:
            if (value.get("done") is None) == (found.get("failure") is None):
                raise _refuse(path, "not exactly one of done and failure")
            if value.get("done") is not None:
                found["done"] = _done(found["kind"], value["done"], f"{path}.done")
        return cls(**found)

    return decode_dataclass


def _args(kind: str, plain: Any, path: str) -> m.Args:
    cls = _ARGS.get(kind)
    if cls is None:
        return m.UnknownArgs()
    args: m.Args = _dataclass_decoder(cls)(plain, path)
    return args


def _done(kind: str, plain: Any, path: str) -> m.Done:
    cls = _DONE.get(kind)
    if cls is None:
        raise _refuse(path, f"a result of an unknown kind {kind!r}")
    done: m.Done = _dataclass_decoder(cls)(plain, path)
    return done
