# SPDX-License-Identifier: Apache-2.0
"""Global settings: CloudStack's names, defaults and units, and our own.

``Settings`` holds the values in force; the ledger stores what was changed. Readers fetch a value
when they use it, so that a change takes effect without a restart.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastdl.errors import ApiParamError, InternalError, UsageError
from fastdl.manager.origins import Origins
from fastdl.manager.vault import Vault
from fastdl.model.address import is_metadata, parse_cidrs

log = logging.getLogger(__name__)

INTERNAL_SITES: Final = "secstorage.allowed.internal.sites"
DIRECT_DEFAULT: Final = "direct.download.default"
NFS_SERVERS: Final = "direct.download.nfs.servers"

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_JSON_TYPE: Final = re.compile(
    r"(application/json|text/javascript)(; ?charset=[A-Za-z0-9-]{1,20})?", re.IGNORECASE
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_URL: Final = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/?")
_BUCKET: Final = re.compile(r"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?")
_PROXY: Final = re.compile(
    r"(https?|socks5h?)://([^\s/@?#]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of listConfigurations. *kind*: what ``check`` accepts. *secret*: may hold a secret:
    it is encrypted in the ledger, and displayed only through ``Settings.shown``.
    """

    name: str
    category: str
    kind: str
    default: str
    description: str
    least: float = 0
    most: float = 1e9
    secret: bool = False


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
        "Whether downloads follow redirects; every hop is checked against the address policy.",
    ),
    Setting(
        INTERNAL_SITES, "Advanced", "cidrs", "",
        "Comma-separated networks that origins may be in although the address policy refuses "
        "them (loopback, link-local…). Metadata addresses are never allowed.",
    ),
    Setting(
        NFS_SERVERS, "Advanced", "cidrs", "",
        "Comma-separated networks of NFS servers that templates may come from; none by default: "
        "a server that exports primary storage to a host would show it to every tenant.",
    ),
    Setting(
        "expunge.delay", "Advanced", "int", "86400",
        "Seconds after which a destroyed virtual machine, or one whose deployment failed, is "
        "removed with its disk.", least=0, most=31_536_000,
    ),
    Setting(
        "json.content.type", "Advanced", "json", "application/json; charset=UTF-8",
        "Content type of JSON responses: application/json or text/javascript, with a charset.",
    ),
    Setting(
        "default.page.size", "Advanced", "int", "500",
        "Maximum page size of a list command.", least=1, most=10_000,
    ),
    Setting(
        DIRECT_DEFAULT, "Advanced", "bool", "true",
        "Whether registerTemplate and registerIso without directdownload mean directdownload=true; "
        "false: they are refused.",
    ),
    Setting(
        "direct.download.origin.max.active", "Advanced", "int", "16",
        "Concurrent downloads from one origin, over all hosts.", least=1, most=100_000,
    ),
    Setting(
        "direct.download.host.max.active", "Advanced", "int", "4",
        "Concurrent downloads on one host.", least=1, most=1000,
    ),
    Setting(
        "direct.download.host.max.probes", "Advanced", "int", "4",
        "Sources that one host probes concurrently, not counting downloads.", least=1, most=100,
    ),
    Setting(
        "direct.download.account.max.probes", "Advanced", "int", "4",
        "Concurrent probes of one account at registration; further ones wait.",
        least=1, most=1000,
    ),
    Setting(
        "direct.download.pool.max.active", "Advanced", "int", "4",
        "Concurrent downloads into one primary storage pool.", least=1, most=1000,
    ),
    Setting(
        "direct.download.connections.per.origin", "Advanced", "int", "0",
        "Most connections of one download to one origin (0 = by the kind of origin: 32 to an "
        "object store, 16 to a private address, 8 to others).", most=64,
    ),
    Setting(
        "direct.download.require.checksum", "Advanced", "bool", "false",
        "Refuse templates without a checksum.",
    ),
    Setting(
        "direct.download.drift.check.interval", "Advanced", "float", "24",
        "Hours between probes of each template's origin for a changed file (0 = off).",
        most=8760,
    ),
    Setting(
        "direct.download.s3.endpoint", "Advanced", "url", "",
        "URL of the object store that s3:// sources are in; empty = AWS, or what the manager's own "
        "environment says (AWS_ENDPOINT_URL).",
    ),
    Setting(
        "direct.download.s3.buckets", "Advanced", "buckets", "",
        "Buckets, separated by commas, from which every user may register templates: the manager "
        "signs with its own credentials. Administrators may use all buckets.",
    ),
    Setting(
        "direct.download.s3.link.lifetime", "Advanced", "int", "3600",
        "Seconds for which a host can use a signed link to an object; a download that takes "
        "longer gets a new one.", least=10, most=604800,
    ),
    Setting(
        "direct.download.follow.interval", "Advanced", "float", "6",
        "Hours between two questions to the publisher of a product that a template follows (0 = "
        "off).", most=8760,
    ),
    Setting(
        "direct.download.copies.check.interval", "Advanced", "float", "1",
        "Hours between two checks of what is in each pool: copies that were changed or "
        "lost, and those that no template needs (0 = off).", most=8760,
    ),
    Setting(
        "direct.download.proxy", "Advanced", "proxy", "",
        "Proxy that hosts use for downloads (http://HOST:PORT, with USER:PASSWORD@ before the "
        "host where it asks for them); empty = none.", secret=True,
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
        "api.signature.expiry.skew", "Advanced", "int", "0",
        "Seconds by which a client's clock may be behind: a version 3 signature counts so much "
        "longer than its expires says.", most=3600,
    ),
    Setting(
        "api.refused.per.second", "Advanced", "int", "20",
        "Requests a second with a wrong key, signature or session from one address before they "
        "get 429 (bursts of twice as many). Right ones are not affected.", least=1, most=1_000_000,
    ),
    Setting(
        "proxy.header.verify", "Advanced", "bool", "false",
        "Whether the client's address is taken from a header set by a proxy in proxy.cidr.",
    ),
    Setting(
        "proxy.header.names", "Advanced", "names", "X-Forwarded-For",
        "Comma-separated headers in which a trusted proxy names the client.",
    ),
    Setting(
        "proxy.cidr", "Advanced", "cidrs", "",
        "Comma-separated networks of the proxies whose headers are trusted.",
    ),
    Setting(
        "metrics.token", "Advanced", "token", "",
        "Token required for /metrics, as a bearer token or as the password of basic authentication "
        "(16 characters at least); empty = nothing.", secret=True,
    ),
    Setting(
        "max.account.templates", "Account Defaults", "int", "20",
        "Templates and ISOs that an account may have (-1 = any number; administrators: any).",
        least=-1,
    ),
    Setting(
        "max.account.primary.storage", "Account Defaults", "int", "200",
        "GiB of primary storage that the copies may take which an account's users asked for "
        "(-1 = any; administrators: any). The size of the disk counts.", least=-1, most=1 << 30,
    ),
    Setting(
        "max.account.template.copies", "Account Defaults", "int", "100",
        "Copies of templates on primary storage that an account's users may have asked for (-1 = "
        "any number; administrators: any).", least=-1,
    ),
    Setting(
        "max.template.iso.size", "Advanced", "int", "50",
        "GiB that the file of a template or ISO may have at its origin.", least=1, most=1 << 30,
    ),
    Setting(
        "storage.max.volume.size", "Storage", "int", "2000",
        "GiB that the disk in a template may have, unpacked.", least=1, most=1 << 30,
    ),
    Setting(
        "storage.overprovisioning.factor", "Storage", "float", "2",
        "A template's disk may be so many times as large as the pool of files that it goes to.",
        least=0.1, most=1000,
    ),
    Setting(
        "allow.user.prepare.template", "Advanced", "bool", "false",
        "Whether users, and not only administrators, may have templates brought to primary "
        "storage (prepareTemplate), within the limits of their account.",
    ),
    Setting(
        "api.throttling.enabled", "Advanced", "bool", "false",
        "Whether the requests of an account are counted and limited (administrators' are not).",
    ),
    Setting(
        "api.throttling.interval", "Advanced", "int", "1",
        "Seconds after which an account's count is reset.", least=1, most=86400,
    ),
    Setting(
        "api.throttling.max", "Advanced", "int", "25",
        "Requests of an account in one interval; further ones get 429.", least=1, most=1_000_000,
    ),
    Setting(
        "api.requests.per.second", "Advanced", "int", "500",
        "Signed requests a second of one API key before it gets 429 (bursts of twice as many).",
        least=1, most=1_000_000,
    ),
    Setting(
        "direct.download.unreachable.wait", "Advanced", "int", "86400",
        "Seconds after which a download or a removal ends whose pool no host that is Up reaches "
        "(0 = it waits forever).", most=31_536_000,
    ),
    Setting(
        "storage.pool.join.approved.only", "Storage", "bool", "false",
        "Whether a host may join a shared pool that proves nothing (block storage) only where "
        "updateStoragePool open=true allows it; false: hosts of the pool's cluster may.",
    ),
    Setting(
        "event.purge.delay", "Advanced", "int", "90",
        "Days after which events and finished jobs are deleted.", least=1, most=36_500,
    ),
)  # fmt: skip


class Settings:
    """The values in force. *stored*: what the ledger holds, written by ``to_store``; a stored value
    that is not, or no longer, valid is replaced by its default, with a line in the log. *origins*:
    the rules for origins, which are in a file.
    """

    def __init__(
        self,
        stored: Mapping[str, str] | None = None,
        vault: Vault | None = None,
        origins: Origins | None = None,
    ) -> None:
        self.origins = origins or Origins()
        self.version = 0
        """Changes with every value."""
        self._vault = vault
        self._values: dict[str, str] = {}
        self.load(stored or {})

    def load(self, stored: Mapping[str, str]) -> bool:
        """Apply what the ledger holds; whether anything is different now."""
        values = {name: setting.default for name, setting in SETTINGS.items()}
        for name, text in stored.items():
            if name in SETTINGS:
                try:
                    values[name] = check(name, self._from_store(SETTINGS[name], text))
                except ApiParamError as exc:
                    log.error("a setting cannot be used", extra={"setting": name, "why": str(exc)})
        changed = values != self._values
        self._values = values
        self.version += changed
        return changed

    def _from_store(self, setting: Setting, text: str) -> str:
        return self._vault.open(setting.name, text) if setting.secret and self._vault else text

    def to_store(self, name: str, value: str) -> str:
        """Return *value* as stored in the ledger: a secret is encrypted."""
        if not SETTINGS[name].secret or not value:
            return value
        if self._vault is None:
            raise InternalError("there is no key to encrypt a secret with")
        return self._vault.seal(name, value)

    def in_clear(self, stored: Mapping[str, str]) -> list[str]:
        """Return the secrets among *stored* that are in force and were not encrypted."""
        secret = {name for name, setting in SETTINGS.items() if setting.secret}
        return [n for n in secret & stored.keys() if stored[n] and stored[n] == self._values[n]]

    def text(self, name: str) -> str:
        """Return a setting as it is written."""
        return self._values[name]

    def shown(self, name: str) -> str:
        """Return a setting as it may be displayed."""
        return shown(name, self._values[name])

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return int(self._values[name])

    def number(self, name: str) -> float:
        """Return a number, fractions allowed."""
        return float(self._values[name])

    def flag(self, name: str) -> bool:
        """Return whether a setting is true."""
        return self._values[name].lower() == "true"

    def words(self, name: str) -> tuple[str, ...]:
        """Return the parts of a comma-separated list."""
        return tuple(part.strip() for part in self._values[name].split(",") if part.strip())

    def cidrs(self, name: str) -> tuple[str, ...]:
        """Return a list of networks."""
        return self.words(name)

    def set(self, name: str, value: str) -> None:
        """Apply a value that ``check`` accepted."""
        self.version += 1
        self._values[name] = value


MASK: Final = "********"


def shown(name: str, value: str) -> str:
    """Return *value* without its secrets: of a proxy, the address stays visible."""
    if not SETTINGS[name].secret or not value:
        return value
    if SETTINGS[name].kind != "proxy":
        return MASK
    credentials, at, place = value.rpartition("@")
    return f"{credentials.partition('://')[0]}://{MASK}@{place}" if at else value


def check(name: str, value: str) -> str:
    """Return *value* as it will be used; ApiParamError if it is not valid.

    The error of a setting that may hold a secret does not repeat the value.
    """
    setting = SETTINGS.get(name)
    if setting is None:
        raise ApiParamError(f"Config parameter with name {name} doesn't exist")
    value = value.strip()
    if not value.isascii() or not value.isprintable():
        raise ApiParamError(f"{name} has printable ASCII characters only")
    match setting.kind:
        case "int" | "float":
            _check_number(setting, value)
        case "bool":
            value = value.lower()
            if value not in {"true", "false"}:
                raise ApiParamError(f"{name} is either true or false, not {value}")
        case "cidrs":
            _check_cidrs(name, value)
        case "json" if not _JSON_TYPE.fullmatch(value):
            raise ApiParamError(f"{name} is like {setting.default}")
        case "names" if not all(_TOKEN.fullmatch(word.strip()) for word in value.split(",")):
            raise ApiParamError(f"{name} is a list of header names like X-Forwarded-For")
        case "proxy" if value:
            _check_proxy(name, value)
        case "url" if value and not _URL.fullmatch(value):
            raise ApiParamError(f"{name} is like https://store.example:9000")
        case "buckets" if not all(_BUCKET.fullmatch(word.strip()) for word in value.split(",")):
            raise ApiParamError(f"{name} is a list of buckets' names")
        case "token" if value and not 16 <= len(value) <= 512:
            raise ApiParamError(f"{name} has 16 to 512 characters")
    return value


def _check_number(setting: Setting, value: str) -> None:
    pattern = _WHOLE if setting.kind == "int" else _NUMBER
    if not pattern.fullmatch(value):
        raise ApiParamError(f"{setting.name} is a number, not {value[:100]}")
    if not setting.least <= float(value) <= setting.most:
        raise ApiParamError(
            f"{setting.name} must be between {setting.least:g} and {setting.most:g}"
        )


def _check_proxy(name: str, value: str) -> None:
    """Only what a host needs to reach it: nothing that could start another header."""
    if MASK in value:
        raise ApiParamError(f"{name}: give the credentials themselves, not the mask that is shown")
    if len(value) > 2048 or not _PROXY.fullmatch(value):
        raise ApiParamError(f"{name} is like http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")


def _check_cidrs(name: str, value: str) -> None:
    try:
        networks = parse_cidrs(value)
    except UsageError as exc:
        raise ApiParamError(f"{name}: {exc.message}") from None
    for network in networks:
        if is_metadata(network):
            raise ApiParamError(f"{name}: {network} is a metadata address, which is never allowed")
