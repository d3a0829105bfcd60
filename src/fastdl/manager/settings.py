# SPDX-License-Identifier: Apache-2.0
"""Global settings: CloudStack's names, defaults and units, and our own.

``Settings`` holds the values in force; the ledger keeps what was changed. Every reader asks
at the moment of use, so that a change takes effect without a restart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fastdl.errors import ApiParamError

_PUBLIC_METADATA: Final = (
    ipaddress.ip_network("169.254.169.254/32"),
    ipaddress.ip_network("fd00:ec2::254/128"),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of listConfigurations. *kind*: int, float, bool, str or cidrs."""

    name: str
    category: str
    kind: str
    default: str
    description: str
    least: float = 0
    most: float = 1e9


def _all(*settings: Setting) -> dict[str, Setting]:
    return {setting.name: setting for setting in settings}


SETTINGS: Final = _all(
    Setting(
        "direct.download.certificate.background.task.interval", "Advanced", "float", "0",
        "Hours between two rounds of the task that uploads missing certificates to connected "
        "hosts of enabled zones (fractions allowed, 0 = off). Hosts also converge when they "
        "connect and when their keystore changes.", most=8760,
    ),
    Setting(
        "direct.download.connect.timeout", "Advanced", "int", "5000",
        "Milliseconds to wait for a connection to an origin.", least=1, most=600_000,
    ),
    Setting(
        "direct.download.socket.timeout", "Advanced", "int", "5000",
        "Milliseconds without a byte from an origin before a connection counts as stalled.",
        least=1, most=3_600_000,
    ),
    Setting(
        "direct.download.connection.request.timeout", "Hidden", "int", "5000",
        "Kept for compatibility: fastdl has no shared connection pool to wait for.",
        least=1, most=600_000,
    ),
    Setting(
        "primary.storage.download.wait", "Storage", "int", "10800",
        "Seconds after which a download to primary storage fails.", least=1, most=31_536_000,
    ),
    Setting(
        "store.download.follow.redirects", "Advanced", "bool", "false",
        "Whether downloads follow redirects; every hop is judged by the address policy.",
    ),
    Setting(
        "secstorage.allowed.internal.sites", "Advanced", "cidrs", "",
        "Comma-separated networks that origins may be in although the address policy refuses "
        "them (loopback, link-local…). Metadata addresses are never allowed.",
    ),
    Setting(
        "json.content.type", "Advanced", "str", "application/json; charset=UTF-8",
        "Content type of JSON answers.",
    ),
    Setting(
        "default.page.size", "Advanced", "int", "500",
        "Largest page of a list command.", least=1, most=10_000,
    ),
    Setting(
        "direct.download.origin.max.active", "Advanced", "int", "16",
        "Downloads at once from one origin, over all hosts.", least=1, most=100_000,
    ),
    Setting(
        "direct.download.host.max.active", "Advanced", "int", "4",
        "Downloads at once on one host.", least=1, most=1000,
    ),
    Setting(
        "direct.download.pool.max.active", "Advanced", "int", "4",
        "Downloads at once into one primary storage pool.", least=1, most=1000,
    ),
    Setting(
        "direct.download.connections.per.origin", "Advanced", "int", "4",
        "Connections of one download to one origin.", least=1, most=64,
    ),
    Setting(
        "direct.download.require.checksum", "Advanced", "bool", "false",
        "Refuse templates whose bytes no checksum proves.",
    ),
    Setting(
        "direct.download.drift.check.interval", "Advanced", "float", "24",
        "Hours between two looks at each template's origin for a changed file (0 = off).",
        most=8760,
    ),
    Setting(
        "direct.download.proxy", "Advanced", "str", "",
        "Proxy that hosts use for downloads (http://HOST:PORT); empty = none.",
    ),
    Setting(
        "api.signature.expiry.required", "Advanced", "bool", "false",
        "Refuse requests without signatureVersion=3 and expires.",
    ),
    Setting(
        "api.signature.expiry.max", "Advanced", "int", "86400",
        "Seconds that a version 3 signature may be valid ahead of now.", least=60, most=31_536_000,
    ),
    Setting(
        "max.account.templates", "Account Defaults", "int", "20",
        "Templates and ISOs that an account may have (-1 = any number; administrators: any).",
        least=-1,
    ),
    Setting(
        "api.throttling.enabled", "Advanced", "bool", "false",
        "Whether the requests of an account are counted and limited (administrators' are not).",
    ),
    Setting(
        "api.throttling.interval", "Advanced", "int", "1",
        "Seconds after which an account's count starts again.", least=1, most=86400,
    ),
    Setting(
        "api.throttling.max", "Advanced", "int", "25",
        "Requests of an account in one interval; further ones get 429.", least=1, most=1_000_000,
    ),
    Setting(
        "api.requests.per.second", "Advanced", "int", "500",
        "Requests a second of one API key before it gets 429 (bursts of twice as many).",
        least=1, most=1_000_000,
    ),
    Setting(
        "event.purge.delay", "Advanced", "int", "90",
        "Days after which events and finished jobs are deleted.", least=1, most=36_500,
    ),
)  # fmt: skip


class Settings:
    """The values in force."""

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        self._values = {name: setting.default for name, setting in SETTINGS.items()}
        for name, value in (changed or {}).items():
            if name in SETTINGS:
                self._values[name] = value

    def text(self, name: str) -> str:
        """Return a setting as it is written."""
        return self._values[name]

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return int(self._values[name])

    def number(self, name: str) -> float:
        """Return a number, fractions allowed."""
        return float(self._values[name])

    def flag(self, name: str) -> bool:
        """Return whether a setting is true."""
        return self._values[name].lower() == "true"

    def cidrs(self, name: str) -> tuple[str, ...]:
        """Return a list of networks."""
        return tuple(part.strip() for part in self._values[name].split(",") if part.strip())

    def set(self, name: str, value: str) -> None:
        """Take over a value that ``check`` accepted."""
        self._values[name] = value


def check(name: str, value: str) -> str:
    """Return *value* as it is to be stored; ApiParamError where it cannot be used."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise ApiParamError(f"Config parameter with name {name} doesn't exist")
    value = value.strip()
    if setting.kind in {"int", "float"}:
        _check_number(setting, value)
    elif setting.kind == "bool" and value.lower() not in {"true", "false"}:
        raise ApiParamError(f"{name} is either true or false, not {value}")
    elif setting.kind == "cidrs":
        _check_cidrs(name, value.split(","))
    return value.lower() if setting.kind == "bool" else value


def _check_number(setting: Setting, value: str) -> None:
    try:
        number = int(value) if setting.kind == "int" else float(value)
    except ValueError:
        raise ApiParamError(f"{setting.name} is a number, not {value}") from None
    if not setting.least <= number <= setting.most:
        raise ApiParamError(
            f"{setting.name} must be between {setting.least:g} and {setting.most:g}"
        )


def _check_cidrs(name: str, parts: Iterable[str]) -> None:
    for part in filter(None, map(str.strip, parts)):
        try:
            network = ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ApiParamError(f"{name}: {part} is not a network like 10.20.0.0/16") from None
        if any(
            network.version == m.version and network.subnet_of(m)  # type: ignore[arg-type]
            for m in _PUBLIC_METADATA
        ):
            raise ApiParamError(f"{name}: {part} is a metadata address, which is never allowed")
