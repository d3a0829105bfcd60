# SPDX-License-Identifier: Apache-2.0
"""The results of commands: what a host reports for each kind, and failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastdl.wire.inventory import CertificateInfo
from fastdl.wire.limits import Count, Digests, Id, Items, Line, Lines, Name, Text, Whole
from fastdl.wire.machines import ConsoleDone, MachineDone
from fastdl.wire.pieces import HASHES_MAX, LENGTH_MAX, LENGTH_MIN, PIECES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error of ``fastdl.errors`` as it crosses the wire (see ``codec.failure_of``)."""

    code: Annotated[int, Whole(0, 255)]
    message: Line
    phase: Annotated[str, Text(32)] | None = None
    origin: Line | None = None
    retryable: bool = False
    elsewhere: bool = False
    """Another host may succeed."""
    http_status: Annotated[int, Whole(100, 599)] | None = None
    """The status that the origin answered with, where that is what went wrong."""
    retry_after_s: float | None = None
    """The seconds that the origin asked to wait (Retry-After)."""
    public_source: bool = False
    """Every address that the job tried is public: the user who named the source may know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """What tells one version of a source from the next."""

    size: Count | None = None
    etag: Annotated[str, Text(1024)] | None = None
    last_modified: Annotated[str, Text(64)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReport:
    """What one mirror gave. *url* is without userinfo and query values."""

    url: Line
    bytes: Count = 0
    requests: Count = 0
    errors: Count = 0
    state: Annotated[str, Text(32)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceList:
    """The digests of a file's pieces (``wire.pieces``). *sha256* and *size*: of the whole file."""

    sha256: Annotated[str, Text(64, 64)]
    size: Count
    length: Annotated[int, Whole(LENGTH_MIN, LENGTH_MAX)]
    hashes: Annotated[str, Text(HASHES_MAX, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadDone:
    """A verified, published copy. *install_path*: the volume's name in the pool."""

    install_path: Line
    virtual_size: Count
    source_bytes: Count = 0
    target_bytes: Count = 0
    fetched_bytes: Count = 0
    digests: Digests = field(default_factory=dict)
    integrity: Annotated[str, Text(16)] = "none"
    format: Annotated[str, Text(32)] = ""
    seconds: float = 0.0
    validators: Validators = Validators()
    mirrors: Annotated[tuple[MirrorReport, ...], Items(64)] = ()
    warnings: Lines = ()
    already_present: bool = False
    replaced: Line = ""
    """Why another copy, which was in its place, was replaced."""
    bottleneck: Annotated[str, Text(16)] = ""
    """What it waited for most (``engine.result``); empty where nothing was fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDone:
    """The copy is gone (*was_present* false where it had been gone before), or it is *kept*,
    with its *reason*: *users* are who uses it."""

    was_present: bool = True
    kept: bool = False
    users: Annotated[tuple[Line, ...], Items(64)] = ()
    reason: Line = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasOutcome:
    """*failure* None = the alias is now as wanted."""

    alias: Name
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesDone:
    """One outcome per alias asked for, and the keystore as it is afterwards, with a revision
    as in ``Inventory``."""

    outcomes: Annotated[tuple[AliasOutcome, ...], Items(256)] = ()
    certificates: Annotated[tuple[CertificateInfo, ...], Items(4096)] = ()
    keystore_revision: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDone:
    """What registration wants to know. *size*: of the source; *metalink*: it was one;
    *public_source*: every address that was tried is public."""

    size: Count | None = None
    virtual_size: Count | None = None
    format: Annotated[str, Text(32)] = ""
    ranges: bool = False
    metalink: bool = False
    validators: Validators = Validators()
    digests: Digests = field(default_factory=dict)
    mirrors: Lines = ()
    warnings: Lines = ()
    unsafe: Lines = ()
    """Why every download will refuse the image, where its beginning tells already."""
    public_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDone:
    """Would the host accept this origin now? *accepted_by*: an alias, or ``system``."""

    accepted: bool
    reason: Line = ""
    accepted_by: Name = ""
    subject: Line = ""
    not_after: Annotated[str, Text(40)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInfo:
    """What lies under a volume's name in a pool.

    *template* and *zone*: as the command named them. *state*: intact, changed, absent,
    landed or foreign (``agent.pools.State``), and *why*. *fence*: the highest that its lock saw.
    """

    volume: Annotated[str, Text(128, 1)]
    template: Annotated[str, Text(64)] = ""
    zone: Annotated[str, Text(64)] = ""
    complete: bool = False
    state: Annotated[str, Text(16)] = ""
    why: Line = ""
    install_path: Line = ""
    virtual_size: Count = 0
    bytes: Count = 0
    fence: Count = 0
    users: Annotated[tuple[Line, ...], Items(16)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesDone:
    """Copies in the order of their volumes; *more*: there are some behind the last one."""

    copies: Annotated[tuple[CopyInfo, ...], Items(500)] = ()
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDone:
    """What a copy is: intact, damaged, absent, or unknown where nothing tells; and *why*.

    *bytes*: that were read. *wrong*: those of its *pieces* of *length* bytes, counted from 0, that
    are not as the manager's list says; 0 pieces: there is no list.
    """

    state: Annotated[str, Text(16)]
    why: Line = ""
    bytes: Count = 0
    pieces: Annotated[int, Whole(0, PIECES_MAX)] = 0
    length: Annotated[int, Whole(0, LENGTH_MAX)] = 0
    wrong: Annotated[tuple[Annotated[int, Whole(0, PIECES_MAX - 1)], ...], Items(PIECES_MAX)] = ()
    users: Annotated[tuple[Line, ...], Items(64)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsDone:
    """The documents in the order of the sources, packed as ``wire.packed`` says; empty = absent.

    *public_source*: every address that was tried is public."""

    documents: Annotated[tuple[Annotated[str, Text(1 << 21)], ...], Items(16)] = ()
    public_source: bool = False


Done = (
    DownloadDone
    | RemoveDone
    | CertificatesDone
    | ProbeDone
    | CheckDone
    | CopiesDone
    | AuditDone
    | DocumentsDone
    | MachineDone
    | ConsoleDone
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a command ended: exactly one of *done* and *failure*."""

    job: Id
    fence: Count
    kind: Annotated[str, Text(32)]
    done: Done | None = None
    failure: Failure | None = None
