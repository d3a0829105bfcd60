# SPDX-License-Identifier: Apache-2.0
"""CloudStack's agent commands and their answers.

CloudStack sends a JSON array of one object whose single key is a Java class name, and
reads the answer in the same shape. Fields it leaves out are null; unknown fields are
ignored, because newer versions add some. Times on that wire are milliseconds, here seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastdl.errors import UsageError

MAX_REQUEST: Final = 1 << 20
"""Largest command, in bytes: a certificate bundle and sixteen headers fit many times."""

_PACKAGE: Final = "org.apache.cloudstack.agent.directdownload."
_ANSWER: Final = "com.cloud.agent.api.Answer"
_UNSUPPORTED: Final = "com.cloud.agent.api.UnsupportedAnswer"
_MAX_HEADERS: Final = 16
_MAX_CIDRS: Final = 256
_MAX_MILLISECONDS: Final = 24 * 3600 * 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """``PrimaryDataStoreTO``: the pool as CloudStack names it. *type*: a StoragePoolType."""

    uuid: str
    type: str
    path: str = ""
    host: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; None if CloudStack gave none (or 0, which Java takes as no limit)."""

    connect: float | None = None
    read: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One of the four DirectDownloadCommands. *protocol*: Http, Https, Metalink or Nfs."""

    protocol: str
    url: str
    template_id: int
    template_uuid: str
    destination: str
    """``destData.path``: the volume prepared for a managed pool; empty elsewhere."""
    pool: Pool
    checksum: str | None
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    timeouts: Timeouts
    template_size: int | None
    format: str
    follow_redirects: bool
    allowed_cidrs: tuple[str, ...]
    nfs_servers: tuple[str, ...]
    """``nfsServers``: ours, in addition to CloudStack's ``allowedCidrs``."""
    wait: float
    """Seconds that CloudStack waits for the answer; 0 = it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupCertificate:
    """``SetupDirectDownloadCertificateCommand``."""

    name: str
    certificate: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeCertificate:
    """``RevokeDirectDownloadCertificateCommand``."""

    alias: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckUrl:
    """``CheckUrlCommand``: does the URL exist, and how large is its disk?"""

    url: str
    format: str
    timeouts: Timeouts
    follow_redirects: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A command of another class."""

    name: str


Command = Download | SetupCertificate | RevokeCertificate | CheckUrl | Unknown


def parse_command(text: str | bytes) -> Command:
    """The one command in *text*; UsageError with the field's name for anything malformed."""
    if len(text) > MAX_REQUEST:
        raise UsageError(f"the command is longer than {MAX_REQUEST} bytes")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the command is not JSON: {str(exc)[:120]}") from None
    single = plain[0] if isinstance(plain, list) and len(plain) == 1 else None
    if not isinstance(single, dict) or len(single) != 1:
        raise UsageError("the command is not a JSON array of one object with one key")
    ((name, body),) = single.items()
    if not isinstance(body, dict):
        raise UsageError(f"the fields of {name} are not a JSON object")
    return _build(name, body)


def _build(name: str, body: dict[str, Any]) -> Command:
    short = name.removeprefix(_PACKAGE)
    if short == name:
        return Unknown(name=name)
    if short.endswith("DirectDownloadCommand"):
        protocol = short.removesuffix("DirectDownloadCommand")
        if protocol in {"Http", "Https", "Metalink", "Nfs"}:
            return _download(protocol, body)
    if short == "SetupDirectDownloadCertificateCommand":
        return SetupCertificate(
            name=_need(body, "certificateName", str), certificate=_need(body, "certificate", str)
        )
    if short == "RevokeDirectDownloadCertificateCommand":
        return RevokeCertificate(alias=_need(body, "certificateAlias", str))
    if short == "CheckUrlCommand":
        return CheckUrl(
            url=_need(body, "url", str),
            format=_get(body, "format", str) or "",
            timeouts=_timeouts(body, "socketTimeout"),
            follow_redirects=_follow(body),
        )
    return Unknown(name=name)


def _download(protocol: str, body: dict[str, Any]) -> Download:
    pool = _need(body, "destPool", dict)
    data = _get(body, "destData", dict) or {}
    return Download(
        protocol=protocol,
        url=_need(body, "url", str),
        template_id=_need(body, "templateId", int),
        template_uuid=_get(data, "uuid", str) or "",
        destination=_get(data, "path", str) or "",
        pool=Pool(
            uuid=_need(pool, "uuid", str),
            type=_get(pool, "poolType", str) or "",
            path=_get(pool, "path", str) or "",
            host=_get(pool, "host", str) or "",
            name=_get(pool, "name", str) or "",
        ),
        checksum=_get(body, "checksum", str) or None,
        headers=_headers(_get(body, "headers", dict) or {}),
        timeouts=_timeouts(body, "soTimeout"),
        template_size=_get(body, "templateSize", int),
        format=_get(body, "format", str) or "",
        follow_redirects=_follow(body),
        allowed_cidrs=_strings(body, "allowedCidrs"),
        nfs_servers=_strings(body, "nfsServers"),
        wait=float(_get(body, "wait", int) or 0),
    )


def _follow(body: Mapping[str, Any]) -> bool:
    """Releases without the field follow redirects; each hop is checked here in any case."""
    follow = _get(body, "followRedirects", bool)
    return True if follow is None else follow


def _timeouts(body: Mapping[str, Any], read: str) -> Timeouts:
    return Timeouts(connect=_seconds(body, "connectTimeout"), read=_seconds(body, read))


def _seconds(body: Mapping[str, Any], name: str) -> float | None:
    value = _get(body, name, int)
    if value is None or value == 0:
        return None
    if not 0 < value <= _MAX_MILLISECONDS:
        raise UsageError(f"{name} is not between 0 and {_MAX_MILLISECONDS} milliseconds")
    return value / 1000


def _headers(plain: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    if len(plain) > _MAX_HEADERS:
        raise UsageError(f"more than {_MAX_HEADERS} headers")
    for name, value in plain.items():
        if not isinstance(value, str):
            raise UsageError(f"the header {name[:64]!a} is not a string")
    return tuple(plain.items())


def _strings(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = _get(body, name, list) or []
    if len(values) > _MAX_CIDRS or not all(isinstance(value, str) for value in values):
        raise UsageError(f"{name} is not a list of at most {_MAX_CIDRS} strings")
    return tuple(values)


def _get(body: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"{name} is not of the type that CloudStack gives it")
    return value


def _need(body: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = _get(body, name, kind)
    if value is None:
        raise UsageError(f"{name} is missing")
    return value


# --- answers -----------------------------------------------------------------------------


def downloaded(*, template_size: int, install_path: str) -> str:
    """The ``DirectDownloadAnswer`` of a success. *template_size*: of the disk, in bytes."""
    fields = {
        "templateSize": template_size,
        "installPath": install_path,
        "retryOnOtherHosts": False,
    }
    return _encode(_PACKAGE + "DirectDownloadAnswer", fields, result=True, details=None)


def download_failed(details: str, *, retry_on_other_hosts: bool) -> str:
    """The ``DirectDownloadAnswer`` of a failure."""
    fields = {"retryOnOtherHosts": retry_on_other_hosts}
    return _encode(_PACKAGE + "DirectDownloadAnswer", fields, result=False, details=details)


def checked(*, template_size: int) -> str:
    """The ``CheckUrlAnswer`` of a URL that exists."""
    fields = {"templateSize": template_size}
    return _encode(_PACKAGE + "CheckUrlAnswer", fields, result=True, details=None)


def check_failed(details: str) -> str:
    """The ``CheckUrlAnswer`` of a URL that cannot be used."""
    return _encode(_PACKAGE + "CheckUrlAnswer", {}, result=False, details=details)


def answered(*, result: bool, details: str | None = None) -> str:
    """The plain ``Answer``, which certificates get."""
    return _encode(_ANSWER, {}, result=result, details=details)


def unsupported(details: str) -> str:
    """The answer to a command of another class."""
    return _encode(_UNSUPPORTED, {}, result=False, details=details)


def _encode(name: str, own: dict[str, Any], *, result: bool, details: str | None) -> str:
    """Fields in the order in which Gson writes them: the class's own, Answer's, Command's."""
    fields: dict[str, Any] = {**own, "result": result}
    if details is not None:
        fields["details"] = details
    fields |= {"contextMap": {}, "wait": 0, "bypassHostMaintenance": False}
    return json.dumps([{name: fields}], separators=(",", ":"))
