# SPDX-License-Identifier: Apache-2.0
"""The commands for hosts: each kind and its arguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from fastdl.wire.limits import Count, Headers, Id, Items, Line, Name, Pem, Text, Whole
from fastdl.wire.machines import ConsoleArgs, MachineArgs


class Kind(StrEnum):
    """What a command asks for."""

    DOWNLOAD = "download"
    REMOVE = "remove"
    CERTIFICATES = "certificates"
    PROBE = "probe"
    CHECK = "check"
    COPIES = "copies"
    AUDIT = "audit"
    DOCUMENTS = "documents"
    MACHINE = "machine"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRule:
    """What the operator says of the URLs that begin with *url*: see ``sources.origin_rules``."""

    url: Line
    mirrors: Annotated[tuple[Line, ...], Items(16)] = ()
    proxy: Line | None = field(default=None, repr=False)
    headers: Headers = field(default=(), repr=False)
    limit_rate: Count | None = None
    max_connections: Annotated[int, Whole(1, 64)] | None = None
    follow_redirects: bool | None = None
    blocked: Line | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How bytes may be fetched: the part that downloads, probes and checks share."""

    sources: Annotated[tuple[Line, ...], Items(64)]
    """URLs: mirrors of the same bytes, or one metalink."""
    headers: Headers = field(default=(), repr=False)
    checksum: Annotated[str, Text(300)] | None = None
    """``{ALG}hex`` as CloudStack writes it."""
    follow_redirects: bool = False
    allowed_cidrs: Annotated[tuple[Annotated[str, Text(64)], ...], Items(256)] = ()
    """Exceptions to the address policy (``secstorage.allowed.internal.sites``)."""
    nfs_servers: Annotated[tuple[Annotated[str, Text(64)], ...], Items(256)] = ()
    """NFS servers that may be sources (``direct.download.nfs.servers``)."""
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    max_connections: Annotated[int, Whole(1, 256)] = 8
    max_connections_per_origin: Annotated[int, Whole(1, 256)] | None = None
    """The most; None: as many as an origin of its kind stands, while they pay."""
    limit_rate: Count | None = None
    require_checksum: bool = False
    proxy: Line | None = None
    rules: Annotated[tuple[OriginRule, ...], Items(64)] = ()
    """Those in force when the command is sent; ledgers do not keep them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadArgs:
    """Bring a template to a pool of this host, verified, under the name *volume*.

    The same (template, pool) always comes with the same *volume*: where the volume is there
    with its marker, the answer is ``already_present``.
    """

    template: Id
    pool: Id
    volume: Annotated[str, Text(128, 1)]
    iso: bool = False
    format: Annotated[str, Text(16)] = ""
    """As registered: QCOW2, RAW, ISO, VMDK, VHD…; empty = find out."""
    transfer: Transfer
    max_source_size: Count | None = None
    max_virtual_size: Count | None = None
    deadline: float = 10800.0
    """The job fails after so many seconds (``primary.storage.download.wait``)."""
    piece_lists: bool = False
    """The manager keeps a list of the file's pieces, or wants one: see ``PiecesWanted``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveArgs:
    """Remove a copy that a download made, with its marker. Absent = success.

    A copy that somebody uses is kept, unless *forced*.
    """

    template: Id
    pool: Id
    volume: Annotated[str, Text(128, 1)]
    install_path: Line = ""
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCertificate:
    """*sha256* of the first certificate of *pem*; a bundle is stored as ``Inventory`` says."""

    alias: Annotated[str, Text(255, 1)]
    sha256: Annotated[str, Text(64)]
    pem: Pem


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesArgs:
    """Make the keystore hold *install* (replacing another certificate under that alias) and
    none of *remove*; leave every other entry alone."""

    install: Annotated[tuple[WantedCertificate, ...], Items(64)] = ()
    remove: Annotated[tuple[Name, ...], Items(256)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeArgs:
    """Ask the origin; write nothing."""

    transfer: Transfer
    format: Annotated[str, Text(16)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckArgs:
    """Only the TLS part of *transfer*'s first source: would a download be trusted?"""

    transfer: Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesArgs:
    """Tell what lies in a pool, as its markers know it, behind the volume *after*."""

    pool: Id
    after: Annotated[str, Text(128)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditArgs:
    """Read the copy *volume* as a whole, and compare it with its digest. *checksum*: the
    template's, to which the manager's list of pieces is bound; None: it keeps none."""

    pool: Id
    volume: Annotated[str, Text(128, 1)]
    iso: bool = False
    checksum: Annotated[str, Text(300)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsArgs:
    """Fetch *transfer*'s sources, each a document of its own and of at most *most* bytes: a
    checksum list, say, and its signatures. All but the first may be absent."""

    transfer: Transfer
    most: Annotated[int, Whole(1, 8 << 20)] = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownArgs:
    """A command of a kind this version does not know: answer AgentRefusedError, code 71."""


Args = (
    DownloadArgs
    | RemoveArgs
    | CertificatesArgs
    | ProbeArgs
    | CheckArgs
    | CopiesArgs
    | AuditArgs
    | DocumentsArgs
    | MachineArgs
    | ConsoleArgs
    | UnknownArgs
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to do. *kind* decides the class of *args*."""

    job: Id
    kind: Annotated[str, Text(32)]
    fence: Count
    args: Args
