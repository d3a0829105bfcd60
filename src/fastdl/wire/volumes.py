# SPDX-License-Identifier: Apache-2.0
"""What may a client ask of an agent's volumes? The body of one request, checked.

    {"pool": "default", "name": "vm1.qcow2", "source": "https://…"}

Optional: ``sources`` instead of ``source``, mirrors of the same bytes; ``checksum``, a digest or
the URL of a list; ``format``, same or raw; ``capacity`` in bytes; ``overwrite``; ``headers``, an
object; ``cacert``, certificates in PEM to trust besides the host's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastdl.errors import ApiParamError, FastdlError
from fastdl.model.digest import names_a_list, parse_checksum
from fastdl.model.url import Url

BODY_MAX: Final = 64 << 10
"""Bytes of a request."""
_SOURCES_MAX: Final = 16
_HEADERS_MAX: Final = 32
_URL_MAX: Final = 8192
_NAME_MAX: Final = 128
_CAPACITY_MAX: Final = 1 << 62
_SCHEMES: Final = frozenset({"http", "https", "nfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRequest:
    """One checked request. *capacity* in bytes; ``id`` is the same for the same request."""

    id: str
    pool: str
    name: str
    sources: tuple[str, ...] = field(repr=False)
    checksum: str | None = None
    checksum_list: str | None = None
    raw: bool = False
    capacity: int | None = None
    overwrite: bool = False
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cacert: str | None = None


def parse_volume_request(body: bytes) -> VolumeRequest:
    """The request in *body*; ApiParamError with one sentence for anything else."""
    if len(body) > BODY_MAX:
        raise ApiParamError(f"a request has at most {BODY_MAX} bytes")
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiParamError("the body is not JSON") from None
    if not isinstance(plain, dict):
        raise ApiParamError("the body is an object")
    if unknown := sorted(set(plain) - _FIELDS.keys()):
        raise ApiParamError(f"there is no field {unknown[0][:40]!a}")
    if missing := sorted({"pool", "name"} - set(plain)):
        raise ApiParamError(f"the field {missing[0]} is missing")
    if ("source" in plain) == ("sources" in plain):
        raise ApiParamError("give source or sources")
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if value is not None:
            found |= _FIELDS[name](name, value)
    if "sources" not in found or "pool" not in found or "name" not in found:
        raise ApiParamError("pool, name and source must not be null")
    known = json.dumps({name: found[name] for name in sorted(found)}, sort_keys=True)
    return VolumeRequest(id=hashlib.sha256(known.encode()).hexdigest()[:32], **found)


def _text(name: str, value: Any, most: int = _NAME_MAX) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ApiParamError(f"{name} is text of 1 to {most} printable characters")
    return value


def _name(name: str, value: Any) -> Mapping[str, Any]:
    return {name: _text(name, value)}


def _source(name: str, value: Any) -> Mapping[str, Any]:
    listed = [value] if name == "source" else value
    if not isinstance(listed, list) or not 0 < len(listed) <= _SOURCES_MAX:
        raise ApiParamError(f"sources is a list of 1 to {_SOURCES_MAX} URLs")
    return {"sources": tuple(_url(name, one) for one in listed)}


def _url(name: str, value: Any) -> str:
    text = _text(name, value, _URL_MAX)
    try:
        scheme = Url.parse(text).scheme
    except FastdlError as exc:
        raise ApiParamError(f"{name}: {exc.message}") from None
    if "://" not in text or scheme not in _SCHEMES:
        raise ApiParamError(f"{name}: http, https and nfs URLs are fetched")
    return text


def _checksum(name: str, value: Any) -> Mapping[str, Any]:
    text = _text(name, value, _URL_MAX)
    if names_a_list(text):
        if not text.lower().startswith(("http://", "https://")):
            raise ApiParamError("a checksum list is named by an http or https URL")
        return {"checksum_list": text}
    try:
        parse_checksum(text)
    except FastdlError as exc:
        raise ApiParamError(f"{name}: {exc.message}") from None
    return {"checksum": text}


def _format(name: str, value: Any) -> Mapping[str, Any]:
    if value not in ("same", "raw"):
        raise ApiParamError(f"{name} is same or raw")
    return {"raw": value == "raw"}


def _capacity(name: str, value: Any) -> Mapping[str, Any]:
    if type(value) is not int or not 0 < value <= _CAPACITY_MAX:
        raise ApiParamError(f"{name} is a number of bytes")
    return {name: value}


def _flag(name: str, value: Any) -> Mapping[str, Any]:
    if type(value) is not bool:
        raise ApiParamError(f"{name} is true or false")
    return {name: value}


def _headers(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > _HEADERS_MAX:
        raise ApiParamError(f"{name} is an object of at most {_HEADERS_MAX} texts")
    pairs = sorted(
        (key, _text(f"the header {key[:40]!a}", one, 8000)) for key, one in value.items()
    )
    return {name: tuple(pairs)}


def _certificates(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, str) or "-----BEGIN CERTIFICATE-----" not in value:
        raise ApiParamError(f"{name} is certificates in PEM")
    return {name: value}


_FIELDS: Final[Mapping[str, Callable[[str, Any], Mapping[str, Any]]]] = {
    "pool": _name,
    "name": _name,
    "source": _source,
    "sources": _source,
    "checksum": _checksum,
    "format": _format,
    "capacity": _capacity,
    "overwrite": _flag,
    "headers": _headers,
    "cacert": _certificates,
}
