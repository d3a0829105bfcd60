# SPDX-License-Identifier: Apache-2.0
"""The messages between manager and agent: one frozen value each.

Transport: HTTPS on the manager's agent port, its certificate issued by the manager's own CA
for the name ``MANAGER_NAME`` (agents check that name, whatever address they connect to).

- ``GET /ca``: the CA certificates (PEM, more than one while the CA is rotated). The agent trusts
  the one whose fingerprint is inside the token.
- ``POST /enrol``: ``EnrolRequest`` → ``EnrolReply``; an error is ``Refused`` with status 403.
  The agent makes a key for each token and stores it before it asks; asking again with the same
  token *and the same key* gives a certificate again, so a lost answer costs nothing. Any other
  reuse is refused.
- ``GET /agent`` (WebSocket, client certificate required): text frames, one message each.
  The agent speaks first (``Hello``); the manager answers ``Welcome`` and then the host's
  ``Document``, or ``Refused`` and closes.
- NATS, where it is configured, carries the same messages (``fastdl.wire.nats``).

Desired state: a ``Document`` lists *everything* the host should be doing now. A job that is
missing from it is to be stopped, and its end reported as a ``JobResult`` with failure code 130
(that frees the origin's slot); what was fetched is kept for a later job. A document
with a ``rev`` lower than one seen in the same connection is ignored. Per command: unknown job →
journal it, start it, send ``JobStarted``; known and running → adopt the higher fence, continue;
known and finished → send its ``JobResult`` again under the new fence, but one that was stopped
is started again; a fence lower than the journal's → ignore.
A result is kept and repeated (at reconnect, and every 30 s) until its ``ResultAck``.

Times are seconds, sizes bytes, rates bytes a second. What messages are made of stands in
``limits``, ``inventory``, ``commands``, ``machines`` and ``results``, and is re-exported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final

from fastdl.wire.commands import (
    Args,
    AuditArgs,
    CertificatesArgs,
    CheckArgs,
    Command,
    CopiesArgs,
    DocumentsArgs,
    DownloadArgs,
    Kind,
    OriginRule,
    ProbeArgs,
    RemoveArgs,
    Transfer,
    UnknownArgs,
    WantedCertificate,
)
from fastdl.wire.inventory import CertificateInfo, Inventory, PoolInfo, PoolType
from fastdl.wire.limits import Count, Id, Items, Line, Name, Pem, Text, Whole
from fastdl.wire.machines import (
    ConsoleArgs,
    ConsoleDone,
    MachineArgs,
    MachineDone,
    MachineInfo,
    MachineState,
)
from fastdl.wire.results import (
    AliasOutcome,
    AuditDone,
    CertificatesDone,
    CheckDone,
    CopiesDone,
    CopyInfo,
    DocumentsDone,
    Done,
    DownloadDone,
    Failure,
    JobResult,
    MirrorReport,
    PieceList,
    ProbeDone,
    RemoveDone,
    Validators,
)

__all__ = [
    "ENROL_MAX",
    "MANAGER_NAME",
    "TO_AGENT_MAX",
    "TO_MANAGER_MAX",
    "AliasOutcome",
    "Args",
    "AuditArgs",
    "AuditDone",
    "Beat",
    "CertificateInfo",
    "CertificatesArgs",
    "CertificatesDone",
    "CheckArgs",
    "CheckDone",
    "Command",
    "ConsoleArgs",
    "ConsoleDone",
    "CopiesArgs",
    "CopiesDone",
    "CopyInfo",
    "Document",
    "DocumentsArgs",
    "DocumentsDone",
    "Done",
    "DownloadArgs",
    "DownloadDone",
    "EnrolReply",
    "EnrolRequest",
    "Failure",
    "Goodbye",
    "Hello",
    "Inventory",
    "InventoryReport",
    "InventoryWanted",
    "JobResult",
    "JobStarted",
    "Kind",
    "MachineArgs",
    "MachineDone",
    "MachineInfo",
    "MachineState",
    "Message",
    "MirrorReport",
    "OriginRule",
    "PieceList",
    "PiecesFound",
    "PiecesKnown",
    "PiecesWanted",
    "PoolInfo",
    "PoolType",
    "ProbeArgs",
    "ProbeDone",
    "Progress",
    "Refused",
    "RemoveArgs",
    "RemoveDone",
    "RenewRequest",
    "RenewWanted",
    "Renewed",
    "ResultAck",
    "Transfer",
    "UnknownArgs",
    "Validators",
    "WantedCertificate",
    "Welcome",
]

MANAGER_NAME: Final = "manager.fastdl.internal"
"""The name in the manager's server certificate (also sent as SNI)."""

TO_MANAGER_MAX: Final = 2 << 20
"""Largest message an agent may send, in bytes of UTF-8."""
TO_AGENT_MAX: Final = 8 << 20
"""Largest message a manager may send: a document with 64 certificate bundles fits."""
ENROL_MAX: Final = 64 << 10
"""Largest enrolment request or answer."""


# --- enrolment ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolRequest:
    """*csr*: PKCS#10 in PEM, an EC or RSA key; its subject is ignored."""

    token: Annotated[str, Text(512)] = field(repr=False)
    csr: Annotated[str, Text(16 << 10)] = field(repr=False)
    name: Name
    """The host's name as it shall appear in listHosts."""
    former: Annotated[str, Text(16 << 10)] = field(default="", repr=False)
    """A request of the key that it was enrolled with until now, where it has one: it shows that the
    machine is that host still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolReply:
    """*certificate*: for the CSR's key, client use only, SAN DNS = *host_id*, 90 days.

    *ca*: every CA that the manager's certificate may come from; the token names one of them.
    """

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
    reason: Annotated[str, Text(32)] = ""
    """A ``fastdl.errors.Reason``, where the other side can do something about it."""


# --- agent → manager ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of a connection. *host_id* must equal the certificate's."""

    host_id: Id
    name: Name
    wire_oldest: Annotated[int, Whole(0, 1 << 16)]
    wire_newest: Annotated[int, Whole(0, 1 << 16)]
    version: Name
    """The agent's fastdl version."""
    arch: Annotated[str, Text(16)] = ""
    """Its processors, as uname names them: x86_64, aarch64; empty where it does not say."""
    kinds: Annotated[tuple[Annotated[str, Text(32)], ...], Items(64)]
    """Command kinds it can carry out (values of ``Kind``)."""
    address: Name = ""
    """Its own address on the management network, as it sees it."""
    boot_id: Name = ""
    instance: Name = ""
    """Generated at each start of the agent: one that comes back after another one of the same host
    shows that there are two."""
    authorities: Annotated[tuple[Annotated[str, Text(64)], ...], Items(8)] = ()
    """SHA-256 of the CAs that it trusts as the manager's, lower-case hex."""
    clock: float = 0.0
    """Its wall clock, seconds since 1970: for a warning only, never for leases."""
    max_downloads: Annotated[int, Whole(0, 1024)] = 4
    libvirt: bool = False
    inventory: Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReport:
    """Sent after each job, when the keystore changed, when asked, and every 10 minutes."""

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
    bottleneck: Annotated[str, Text(16)] = ""
    """What it waited for most until now."""
    mirrors: Annotated[tuple[MirrorReport, ...], Items(16)] = ()
    """What those that gave most did until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecesWanted:
    """What does the manager know of the pieces of what *job* fetches, or audits?

    Only for jobs whose command says ``piece_lists``, and for audits.
    """

    job: Id
    fence: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecesFound:
    """The pieces of what *job* fetched and verified; sent once, after the result was acknowledged.

    *refused*: the list in ``PiecesKnown`` was another one, though the bytes were right.
    """

    job: Id
    fence: Count
    pieces: PieceList
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewRequest:
    """A new certificate for the same key, please: sent when less than 30 days are left, and when
    the manager asks (``RenewWanted``)."""

    csr: Annotated[str, Text(16 << 10)] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """A clean stop: running jobs are kept in the journal and resume at the next start."""

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
    lease_s: float = 0.0
    """So long after the manager last heard it the host may go on downloading; 0 = without end."""
    sole: bool = False
    """Whether this manager is the only one of its ledger."""
    mailbox_key: Annotated[str, Text(64)] = field(default="", repr=False)
    """Over NATS: the key of documents and results (``fastdl.wire.nats.sealed``), hexadecimal."""


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
class PiecesKnown:
    """The answer to ``PiecesWanted``: another host's list, or whether the manager wants one."""

    job: Id
    fence: Count
    pieces: PieceList | None = None
    wanted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """The answer to ``RenewRequest``; the old certificate stays valid until it expires.

    *ca*: what the agent is to trust from now on; empty = what it trusts already.
    """

    certificate: Pem
    ca: Annotated[str, Text(128 << 10)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewWanted:
    """Send a ``RenewRequest`` now: the manager's CA changes."""


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
    | PiecesWanted
    | PiecesFound
    | RenewRequest
    | Goodbye
    | Welcome
    | Document
    | ResultAck
    | PiecesKnown
    | Renewed
    | RenewWanted
    | InventoryWanted
)
