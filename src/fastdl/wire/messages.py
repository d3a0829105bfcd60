# SPDX-License-Identifier: Apache-2.0
"""What manager and agent say to each other: one frozen value per message.

Transport: HTTPS on the manager's agent port, its certificate issued by the manager's own CA
for the name ``MANAGER_NAME`` (agents check that name, whatever address they connect to).

- ``GET /ca``: the CA certificate (PEM). Checked by the fingerprint inside the token.
- ``POST /enrol``: ``EnrolRequest`` → ``EnrolReply``; an error is ``Refused`` with status 403.
  The agent stores its key before it asks; asking again with the same token *and the same key*
  gives a certificate again, so a lost answer costs nothing. Any other reuse is refused.
- ``GET /agent`` (WebSocket, client certificate required): text frames, one message each.
  The agent speaks first (``Hello``); the manager answers ``Welcome`` and then the host's
  ``Document``, or ``Refused`` and closes.

Desired state: a ``Document`` lists *everything* the host should be doing now. A job that is
missing from it is to be stopped and cleaned up, and its end reported as a ``JobResult`` with
failure code 130 (that frees the origin's slot); a document with a ``rev`` lower than one seen
in the same connection is ignored. Per command: unknown job → journal it, start it, send
``JobStarted``; known and running → adopt the higher fence, go on; known and finished →
send its ``JobResult`` again under the new fence; a fence lower than the journal's → ignore.
A result is kept and repeated (at reconnect, and every 30 s) until its ``ResultAck``.

Times are seconds, sizes bytes, rates bytes a second. ``Annotated`` limits are enforced by
``codec.decode``; who builds a message must respect them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

MANAGER_NAME: Final = "manager.fastdl.internal"
"""The name in the manager's server certificate (also sent as SNI)."""

TO_MANAGER_MAX: Final = 2 << 20
"""Largest message an agent may send, in bytes of UTF-8."""
TO_AGENT_MAX: Final = 8 << 20
"""Largest message a manager may send: a document with 64 certificate bundles fits."""
ENROL_MAX: Final = 64 << 10
"""Largest enrolment request or answer."""


@dataclass(frozen=True, slots=True)
class Text:
    """Limit of a string: at most *most* characters, without NUL, at least *least*."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    """Limit of a whole number, both ends included."""

    least: int = 0
    most: int = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Items:
    """Limit of the number of elements of a tuple or a mapping."""

    most: int


Id = Annotated[str, Text(64, 1)]
"""An identifier (a UUID in practice)."""
Name = Annotated[str, Text(255)]
Line = Annotated[str, Text(4096)]
"""A sentence, a path or a URL."""
Pem = Annotated[str, Text(128 << 10)]
"""One certificate, or a bundle of up to ten."""
Count = Annotated[int, Whole()]
"""Bytes, bytes a second, a revision or a fence."""
Digests = Annotated[Mapping[Annotated[str, Text(32)], Annotated[str, Text(256)]], Items(16)]
"""Algorithm (``sha-256``) → lower-case hexadecimal digest."""
Headers = Annotated[tuple[tuple[Name, Line], ...], Items(16)]
"""Request headers, bound to the origins of the sources they came with. May hold secrets."""
Lines = Annotated[tuple[Line, ...], Items(64)]


class Kind(StrEnum):
    """What a command asks for."""

    DOWNLOAD = "download"
    REMOVE = "remove"
    CERTIFICATES = "certificates"
    PROBE = "probe"
    CHECK = "check"


class PoolType(StrEnum):
    """Primary storage as CloudStack names it; ``Block`` is a device named by configuration."""

    FILESYSTEM = "Filesystem"
    NETWORK_FILESYSTEM = "NetworkFilesystem"
    SHARED_MOUNT_POINT = "SharedMountPoint"
    LOGICAL = "CLVM"
    ISCSI = "Iscsi"
    RBD = "RBD"
    BLOCK = "Block"


# --- enrolment ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """*csr*: PKCS#10 in PEM, an EC or RSA key; its subject is ignored."""

    token: Annotated[str, Text(512)] = field(repr=False)
    csr: Annotated[str, Text(16 << 10)] = field(repr=False)
    name: Name
    """The host's name as it shall appear in listHosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolReply:
    """*certificate*: for the CSR's key, client use only, SAN DNS = *host_id*, 90 days."""

    host_id: Id
    zone_id: Id
    certificate: Pem
    ca: Pem


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The last word before the connection closes (or the body of an HTTP error).

    *code* is an exit code of ``fastdl.errors`` (71 = refused: do not come back unchanged).
    """

    code: Annotated[int, Whole(0, 255)]
    message: Line


# --- agent → manager ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInfo:
    """One primary storage pool the host can write to.

    *id* is stable and the same on every host that reaches the same storage; a pool that only
    this host can reach has *shared* false and an id no other host uses.
    """

    id: Id
    name: Name
    type: PoolType
    shared: bool = False
    path: Line = ""
    capacity: Count = 0
    available: Count = 0
    error: Line | None = None
    """Why it cannot be used now; such a pool gets no downloads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """One trusted entry found in the host's keystore. *sha256*: of the DER, lower-case hex."""

    alias: Name
    sha256: Annotated[str, Text(64)]
    subject: Line = ""
    issuer: Line = ""
    not_before: Annotated[str, Text(40)] = ""
    """ISO 8601, UTC."""
    not_after: Annotated[str, Text(40)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What the host has now; always whole, never a difference.

    *certificates* are the entries really found in the keystore file (trusted ones only; the
    reserved aliases ``cloud`` and ``cloudca*`` are left out); a bundle uploaded under ALIAS is
    reported as the agent stores it: ``ALIAS`` for its first certificate, ``ALIAS#2``… for the rest
    (``#`` is outside the grammar of aliases, so nobody's own alias can be meant).
    """

    pools: Annotated[tuple[PoolInfo, ...], Items(256)] = ()
    certificates: Annotated[tuple[CertificateInfo, ...], Items(4096)] = ()
    keystore_error: Line | None = None
    """Why *certificates* could not be read; they are then unknown, not empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of a connection. *host_id* must equal the certificate's."""

    host_id: Id
    name: Name
    wire_oldest: Annotated[int, Whole(0, 1 << 16)]
    wire_newest: Annotated[int, Whole(0, 1 << 16)]
    version: Name
    """The agent's fastdl version."""
    kinds: Annotated[tuple[Annotated[str, Text(32)], ...], Items(64)]
    """Command kinds it can carry out (values of ``Kind``)."""
    address: Name = ""
    """Its own address on the management network, as it sees it."""
    boot_id: Name = ""
    clock: float = 0.0
    """Its wall clock, seconds since 1970: for a warning only, never for leases."""
    max_downloads: Annotated[int, Whole(0, 1024)] = 4
    libvirt: bool = False
    inventory: Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReport:
    """Sent when the inventory changed, and at least every 10 minutes."""

    inventory: Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Presence, every ``Welcome.beat_s`` seconds with ±20 % jitter."""

    clock: float = 0.0
    active: Annotated[int, Whole(0, 1 << 16)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """The command is in the agent's journal and runs."""

    job: Id
    fence: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """At most once a second per job; lossy. *total* and *eta* are None while unknown."""

    job: Id
    fence: Count
    done: Count
    total: Count | None = None
    fetched: Count = 0
    rate: float = 0.0
    eta: float | None = None
    stage: Annotated[str, Text(32)] = ""


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
    retry_after: float | None = None
    """The origin asked to wait so long (429/503 with Retry-After)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveDone:
    """The copy is gone; *was_present* false where it had been gone before."""

    was_present: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasOutcome:
    """*failure* None = the alias is now as wanted."""

    alias: Name
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatesDone:
    """One outcome per alias asked for, and the keystore as it is afterwards."""

    outcomes: Annotated[tuple[AliasOutcome, ...], Items(256)] = ()
    certificates: Annotated[tuple[CertificateInfo, ...], Items(4096)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDone:
    """What registration wants to know. *size*: of the source; *metalink*: it was one."""

    size: Count | None = None
    virtual_size: Count | None = None
    format: Annotated[str, Text(32)] = ""
    ranges: bool = False
    metalink: bool = False
    validators: Validators = Validators()
    digests: Digests = field(default_factory=dict)
    mirrors: Lines = ()
    warnings: Lines = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDone:
    """Would the host accept this origin now? *accepted_by*: an alias, or ``system``."""

    accepted: bool
    reason: Line = ""
    accepted_by: Name = ""
    subject: Line = ""
    not_after: Annotated[str, Text(40)] = ""


Done = DownloadDone | RemoveDone | CertificatesDone | ProbeDone | CheckDone


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """How a command ended: exactly one of *done* and *failure*."""

    job: Id
    fence: Count
    kind: Annotated[str, Text(32)]
    done: Done | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """A new certificate, please: sent when less than 30 days are left."""

    csr: Annotated[str, Text(16 << 10)] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """A clean stop: running jobs are kept in the journal and go on at the next start."""

    reason: Line = ""


# --- manager → agent ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The chosen wire version and the host's place."""

    wire: Annotated[int, Whole(0, 1 << 16)]
    host_id: Id
    zone_id: Id
    zone_name: Name = ""
    clock: float = 0.0
    beat_s: float = 10.0


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
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    max_connections: Annotated[int, Whole(1, 256)] = 8
    max_connections_per_origin: Annotated[int, Whole(1, 256)] = 4
    limit_rate: Count | None = None
    require_checksum: bool = False
    proxy: Line | None = None


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
    max_virtual_size: Count | None = None
    deadline: float = 10800.0
    """The job fails after so many seconds (``primary.storage.download.wait``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveArgs:
    """Remove a copy that a download made, with its marker. Absent = success."""

    template: Id
    pool: Id
    volume: Annotated[str, Text(128, 1)]
    install_path: Line = ""


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
class UnknownArgs:
    """A command of a kind this version does not know: answer AgentRefusedError, code 71."""


Args = DownloadArgs | RemoveArgs | CertificatesArgs | ProbeArgs | CheckArgs | UnknownArgs


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to do. *kind* decides the class of *args*."""

    job: Id
    kind: Annotated[str, Text(32)]
    fence: Count
    args: Args


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything the host should be doing, at revision *rev*."""

    rev: Count
    commands: Annotated[tuple[Command, ...], Items(256)] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultAck:
    """The result is in the ledger, or was stale: either way it need not be sent again."""

    job: Id
    fence: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The answer to ``RenewRequest``; the old certificate stays valid until it expires."""

    certificate: Pem


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryWanted:
    """Send an ``InventoryReport`` now."""


Message = (
    EnrolRequest
    | EnrolReply
    | Refused
    | Hello
    | InventoryReport
    | Beat
    | JobStarted
    | Progress
    | JobResult
    | RenewRequest
    | Goodbye
    | Welcome
    | Document
    | ResultAck
    | Renewed
    | InventoryWanted
)
