# SPDX-License-Identifier: Apache-2.0
"""What a caller may ask of a transfer, with the reason for each default."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from fastdl.errors import UsageError
from fastdl.model.digest import Digest, names_a_list, parse_checksum
from fastdl.model.units import format_size
from fastdl.named_tuple import NamedTuple
from fastdl.sources.origin_rules import OriginRule

if TYPE_CHECKING:
    from fastdl.engine.result import MirrorReport
    from fastdl.engine.shared_pieces import SharedPieces

MiB = 1 << 20
MIN_WINDOW = 8 * MiB
MIN_BLOCK = 64 << 10
MAX_BLOCK = 16 * MiB
BLOCKS_IN_WINDOW = 8
"""At least: one being filled, one being written and some waiting for the ordered digest."""
MAX_CONNECTIONS = 64
RETRY_MAX = 1_000_000


class Progress(NamedTuple):
    """A transfer's progress, in bytes of the source; ``total`` is None while unknown.

    done     verified as far as can be, and landed
    fetched  come from mirrors in this run (resumed bytes are not among them)
    rate     bytes/s from mirrors over the last five seconds; eta in seconds, None where it is
             not known
    stage    resolve, fetch, flush, publish
    received what is here already, resumed or fetched, verified or not: what a bar shows
    average  bytes/s from mirrors since the transfer began
    mirrors  how many are in use
    waiting  what the job waits for, "" if it does not
    bottleneck      what it waited for most until now (as in ``Result``); "" while nothing came
    mirror_reports  what the mirrors that gave most did until now
    """

    done: int = 0
    total: int | None = None
    fetched: int = 0
    rate: float = 0.0
    eta: float | None = None
    stage: str = "resolve"
    connections: int = 0
    received: int = 0
    average: float = 0.0
    mirrors: int = 0
    waiting: str = ""
    bottleneck: str = ""
    mirror_reports: tuple[MirrorReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        out = self._asdict()
        out["mirror_reports"] = [report._asdict() for report in self.mirror_reports]
        return out


ProgressCallback = Callable[[Progress], None]


class Proxies(NamedTuple):
    """The proxies, each None or as curl writes it.

    http, https  for URLs of that scheme: ``[scheme://][user[:password]@]host[:port]``
    exempt       what is reached directly: names, domains, networks, or ``*``
    """

    http: str | None = None
    https: str | None = None
    exempt: str | None = None


class Cookie(NamedTuple):
    """A user's cookie for *host*, below *path*; *domain*: for the names below *host* too."""

    host: str
    path: str
    name: str
    value: str
    domain: bool = False
    secure: bool = False


class Placement(NamedTuple):
    """Where a job works: decided by the program that runs the engine, not by callers of ``fetch``.

    beneath    the folder that a file may not leave; None: anywhere
    state_dir where journals and staged files of targets without a folder are kept; None: the user's
    unpacking the source is brought to a file, decompressed but otherwise as it is
    list_pieces  bytes of the pieces whose SHA-256 is listed next to the whole file's; 0: no list
    shared      such a list, from another transfer of the same file
    damaged     a file of which the pieces that are right are taken, where a list shows them
    """

    beneath: str | None = None
    state_dir: str | None = None
    unpacking: bool = False
    list_pieces: int = 0
    shared: SharedPieces | None = None
    damaged: str | None = None


HERE = Placement()
"""Anywhere, with the user's own state."""


class FetchOptions(NamedTuple):
    """The options of ``fetch``. Sizes in bytes, rates in bytes/s, times in seconds."""

    checksum: Digest | None = None
    source_format: str = "auto"
    target_format: Literal["auto", "same", "raw"] = "auto"
    max_connections: int = 32
    # None: as many as origins of that kind stand (sources.locate.connections_to), while they pay.
    max_connections_per_origin: int | None = None
    limit_rate: int | None = None
    cacert: str | None = None
    anchors: tuple[str, ...] = ()
    cert: str | None = None
    key: str | None = None
    key_pass_file: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    proxy: Proxies | None = None
    # (host, user, password), for typed sources of that host.
    credentials: tuple[tuple[str, str, str], ...] = ()
    cookies: tuple[Cookie, ...] = ()
    # A network interface, or an own address, to connect from.
    interface: str | None = None
    ip_version: Literal[4, 6] | None = None
    # HOST:PORT:ADDRESS[,ADDRESS]: what a name resolves to.
    resolve: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    # The whole job, from its first request to its publication; None: as long as it makes progress.
    max_time: float | None = None
    # Failures in a row after which a mirror is given up, or seconds since the first of them;
    # seconds between them, None: ever longer ones.
    retry: int = 5
    retry_time: float | None = None
    retry_delay: float | None = None
    follow_redirects: bool = True
    resume: bool = True
    # The largest reorder window; less than 64 MiB starves 8 connections over distance.
    window: int = 64 * MiB
    # The unit of receiving, hashing and writing; a metalink's pieces can make it smaller.
    block_size: int = MiB
    verify_readback: bool = False
    overwrite: str | None = None
    require_checksum: bool = False
    # Compute a metalink's digest of the whole file also where its pieces prove the bytes.
    require_whole_digest: bool = False
    policy: Literal["user", "strict"] = "user"
    allowed_cidrs: tuple[str, ...] = ()
    # Under the strict policy only these NFS servers are used: NFS trusts this host's address.
    nfs_servers: tuple[str, ...] = ()
    max_virtual_size: int | None = None
    # Bytes written for each compressed byte, from 1 GiB on; zeros are not written. 0: no limit.
    max_ratio: int = 1000
    zero_rest: bool = False
    detect_zeros: bool | None = None
    metalink_file: str | None = None
    # A file that gets a metalink of the source: sizes, digests, pieces, mirrors.
    write_metalink: str | None = None
    # In a folder the file gets the name that the response proposes, if any.
    content_disposition: bool = False
    # A file that is there is left alone, whatever it holds.
    skip_existing: bool = False
    # What another program left at the target is used, where a digest proves it in the end.
    take_up: bool = False
    # The file gets the source's Last-Modified.
    remote_time: bool = False
    # False if only the name makes a metalink: an image must not become one later.
    metalink_by_type: bool = True
    # URL or path of a list that gives the checksum, with #NAME where the source is called
    # otherwise there; to look for one next to the source; public keys of which one must have
    # signed it (or the metalink, or the file itself).
    checksum_list: str | None = None
    discover: bool = False
    keyring: str | None = None
    # Objects of a store (s3://): what prints a signed link for its last argument, else botocore;
    # a store that is not AWS's; how many seconds a link lasts.
    presign: tuple[str, ...] = ()
    s3_endpoint: str | None = None
    s3_expires: int = 3600
    s3_anonymous: bool = False
    # What the operator says of origins, by the beginnings of URLs.
    origin_rules: tuple[OriginRule, ...] = ()

    @classmethod
    def build(cls, **options: Any) -> FetchOptions:
        """Check and convert keyword arguments of the public API. UsageError."""
        for name in options:
            if name not in cls._fields:
                raise UsageError(f"there is no option {name!r}")
        if isinstance(text := options.get("checksum"), str):
            if names_a_list(text):
                options["checksum"], options["checksum_list"] = None, text.strip()
            else:
                options["checksum"] = parse_checksum(text)
        if options.get("write_metalink") is not None:
            options["require_whole_digest"] = True
        if options.get("retry_time") is not None:
            options.setdefault("retry", RETRY_MAX)  # the time alone decides
        if isinstance(options.get("proxy"), str):
            options["proxy"] = Proxies(options["proxy"], options["proxy"])
        for name in (
            "anchors",
            "allowed_cidrs",
            "nfs_servers",
            "headers",
            "cookies",
            "resolve",
            "presign",
        ):
            if name in options:
                options[name] = tuple(options[name])
        if rules := options.get("origin_rules"):
            # A worker's options come as JSON has them.
            options["origin_rules"] = tuple(OriginRule(*rule) for rule in rules)
        for name in ("cacert", "cert", "key", "key_pass_file", "keyring"):
            if isinstance(options.get(name), os.PathLike):
                options[name] = os.fspath(options[name])
        made = cls(**options)
        made._check()
        return made

    def _check(self) -> None:
        ranges: list[tuple[str, float, float, float]] = [
            ("max_connections", self.max_connections, 1, MAX_CONNECTIONS),
            (
                "max_connections_per_origin",
                1 if self.max_connections_per_origin is None else self.max_connections_per_origin,
                1,
                MAX_CONNECTIONS,
            ),
            ("connect_timeout", self.connect_timeout, 0.001, 86400),
            ("stall_timeout", self.stall_timeout, 0.001, 86400),
            ("max_time", 1 if self.max_time is None else self.max_time, 0.001, 1 << 31),
            ("retry", self.retry, 0, RETRY_MAX),
            ("retry_time", 1 if self.retry_time is None else self.retry_time, 0.001, 1 << 31),
            ("retry_delay", 1 if self.retry_delay is None else self.retry_delay, 0.001, 86400),
            ("s3_expires", self.s3_expires, 1, 604800),
            ("max_ratio", self.max_ratio, 0, 1 << 31),
            ("window", self.window, MIN_WINDOW, 1 << 40),
        ]
        for name, value, low, high in ranges:
            if not low <= value <= high:
                raise UsageError(f"{name} must be between {_shown(low)} and {_shown(high)}")
        if not MIN_BLOCK <= self.block_size <= MAX_BLOCK or self.block_size & (self.block_size - 1):
            raise UsageError("block_size must be a power of two between 64 KiB and 16 MiB")
        if self.block_size * BLOCKS_IN_WINDOW > self.window:
            raise UsageError(
                f"a block size of {format_size(self.block_size)} needs a window of at least "
                f"{format_size(self.block_size * BLOCKS_IN_WINDOW)}"
            )
        if self.limit_rate is not None and self.limit_rate < 1:
            raise UsageError("limit_rate must be at least 1 byte/s")
        if self.policy not in ("user", "strict"):
            raise UsageError("policy is user or strict")
        if self.target_format not in ("auto", "same", "raw"):
            raise UsageError("target_format is same or raw")
        if self.ip_version not in (None, 4, 6):
            raise UsageError("ip_version is 4 or 6")
        for pin in self.resolve:
            check_pin(pin)
        if self.key is not None and self.cert is None:
            raise UsageError("a key needs its certificate (cert)")
        if self.key_pass_file is not None and self.cert is None:
            raise UsageError("a key's passphrase needs the certificate (cert)")
        if (
            self.policy == "strict"
            and self.checksum_list is not None
            and not self.checksum_list.lower().startswith(("http://", "https://"))
        ):
            raise UsageError("a checksum list is named by an http or https URL here")
        strict = self.policy == "strict"
        for header, text in self.headers:
            check_header(header, text, strict=strict)
        for rule in self.origin_rules:
            for header, text in rule.headers:
                try:
                    check_header(header, text, strict=strict)
                except UsageError as exc:
                    raise UsageError(f"the rule for {rule.url}: {exc.message}") from None


def _shown(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def check_header(name: str, value: str, *, strict: bool) -> None:
    """Refuse headers that could smuggle another field or request line, or control the transfer.

    (RFC 9110, 5.5.) *strict*: the caller is not the user who runs the command. UsageError.
    """
    allowed = "!#$%&'*+-.^_`|~"
    if not name or not all(c.isascii() and (c.isalnum() or c in allowed) for c in name):
        raise UsageError("a header's name has a character that is not allowed there")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in value) or len(value) > 8000:
        raise UsageError(f"the value of the header {name} is not allowed")
    field = name.lower()
    if field in _OURS or (field == "accept-encoding" and value.lower() != "identity"):
        raise UsageError(f"the header {name} is set by the transfer itself")
    if field == "host" and (strict or not value or not value.isascii() or " " in value):
        raise UsageError(
            "the header Host is decided by the URL here"
            if strict
            else "the header Host needs a host, or a host and a port"
        )


def check_pin(text: str) -> None:
    """Refuse what is not HOST:PORT:ADDRESS[,ADDRESS], as curl writes it. UsageError."""
    found = re.fullmatch(_PIN, text)
    if found is None or not 0 < int(found[2]) < 65536:
        raise UsageError(
            "resolve is written HOST:PORT:ADDRESS[,ADDRESS], an IPv6 address in brackets"
        )


_PIN = (
    r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*):([0-9]{1,5}):"
    r"(?:[0-9.]+|\[[0-9A-Fa-f:.]+\])(?:,(?:[0-9.]+|\[[0-9A-Fa-f:.]+\]))*"
)

_OURS = {
    "range",
    "if-range",
    "connection",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "te",
    "expect",
}
"""They control which bytes are sent, and where they end."""
