# SPDX-License-Identifier: Apache-2.0
"""A host that speaks the wire and does what the test says: no pools, no keystore, no bytes.

It keeps the rules of ``fastdl.wire.messages`` (journal, fences, acknowledgements) in memory,
and writes down what it was asked, so that a test checks by the host's own account.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import random
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.trust.alias import fold
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.version import CURRENT, OLDEST

Work = Callable[["FakeAgent", m.Command], Awaitable[m.Done | m.Failure]]
ALL_KINDS = tuple(kind.value for kind in m.Kind)
USUAL_KINDS = tuple(kind for kind in ALL_KINDS if kind != m.Kind.COPIES)
"""Those that nobody asks for unless a test does something."""


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """A certificate request for *key*."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class FakeAgent:
    """One host. *work* maps a kind to what carries it out; unset kinds have simple ones."""

    address: tuple[str, int]
    name: str = "kvm1"
    pools: tuple[m.PoolInfo, ...] = ()
    machine_pools: tuple[str, ...] = ()
    """Ids of those that its virtual machines can have their disks in."""
    keystore: dict[str, str] = field(default_factory=dict)
    keystore_error: str | None = None
    kinds: tuple[str, ...] = USUAL_KINDS
    work: dict[str, Work] = field(default_factory=dict)
    max_downloads: int = 64
    beats: bool = False
    """Beat as a real agent does; without it a test decides when the host is silent."""
    host_id: str = ""
    instance: str = ""
    clock: float = 0.0
    revisions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of its keystore."""
    log: list[tuple[str, str]] = field(default_factory=list)
    """(what, job or alias): started, done, cancelled, import, delete."""
    refusals: list[m.Refused] = field(default_factory=list)
    _identity: Path | None = None
    _ca: str = ""
    _tls: ssl.SSLContext | None = None
    _session: aiohttp.ClientSession | None = None
    _socket: aiohttp.ClientWebSocketResponse | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _fences: dict[str, int] = field(default_factory=dict)
    _results: dict[str, m.JobResult] = field(default_factory=dict)
    documents: list[m.Document] = field(default_factory=list)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    acks: list[m.ResultAck] = field(default_factory=list)
    heard: list[m.Message] = field(default_factory=list)
    """Whatever else the manager said."""

    # --- identity ------------------------------------------------------------------------

    async def enrol(self, token: str, *, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        """Exchange *token* for a certificate."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        trust_nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust_nothing.check_hostname, trust_nothing.verify_mode = False, ssl.CERT_NONE
        base = "https://{}:{}".format(*self.address)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/ca", ssl=trust_nothing) as answer:
                self._ca = await answer.text()
            assert token.endswith(self.authorities()), "no CA is the token's"
            request = m.EnrolRequest(token=token, csr=make_csr(key), name=self.name)
            async with session.post(
                f"{base}/enrol",
                data=codec.encode(request),
                ssl=self._context(None),
                server_hostname=m.MANAGER_NAME,
            ) as answer:
                reply = codec.decode(await answer.read(), limit=m.ENROL_MAX)
        if isinstance(reply, m.Refused):
            raise codec.error_of(m.Failure(code=reply.code, message=reply.message))
        assert isinstance(reply, m.EnrolReply)
        self.adopt(reply, key)

    def adopt(self, reply: m.EnrolReply, key: ec.EllipticCurvePrivateKey) -> None:
        """Take over an identity."""
        self.host_id, self._ca = reply.host_id, reply.ca
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._identity = Path(tempfile.mkdtemp()) / "host.pem"
        self._identity.write_bytes(pem + reply.certificate.encode())
        self._tls = None

    def _context(self, identity: Path | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self._ca)
        if identity is not None:
            context.load_cert_chain(identity)
        return context

    def authorities(self) -> tuple[str, ...]:
        """SHA-256 of the CAs that it trusts."""
        found = x509.load_pem_x509_certificates(self._ca.encode())
        return tuple(ca.fingerprint(hashes.SHA256()).hex() for ca in found)

    def copied(self, **changes: object) -> FakeAgent:
        """Another agent with a copy of this one's identity."""
        made = dataclasses.replace(self, **changes, _tasks=set(), _running={}, _results={})
        made.up, made.refusals, made.documents = asyncio.Event(), [], []
        return made

    async def renew(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Ask for a certificate for *key*."""
        await self.say(m.RenewRequest(csr=make_csr(key)))

    def prepare(self) -> None:
        """Read the identity, so that ``connect`` need not."""
        if self._tls is None:
            self._tls = self._context(self._identity)

    # --- connection ----------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the manager let the host in and the connection stands."""
        socket = self._socket
        return self.up.is_set() and not self.refusals and socket is not None and not socket.closed

    async def connect(self, *, certificate: bool = True, **hello: object) -> None:
        """Connect and say hello; returns when the manager welcomed or refused."""
        self.prepare()
        context = self._tls if certificate else self._context(None)
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(
            "https://{}:{}/agent".format(*self.address),
            ssl=context,
            server_hostname=m.MANAGER_NAME,
            max_msg_size=m.TO_AGENT_MAX,
            heartbeat=20.0 if self.beats else None,
        )
        values: dict[str, object] = {
            "host_id": self.host_id,
            "name": self.name,
            "wire_oldest": OLDEST,
            "wire_newest": CURRENT,
            "version": "0",
            "kinds": self.kinds,
            "inventory": self.inventory(),
            "max_downloads": self.max_downloads,
            "clock": self.clock,
            "instance": self.instance,
            "authorities": self.authorities(),
        }
        await self.say(m.Hello(**{**values, **hello}))  # type: ignore[arg-type]
        task = asyncio.create_task(self._listen())
        self._tasks.add(task)
        await self.up.wait()

    async def close(self) -> None:
        """Vanish, as a killed agent does; what it was doing stops."""
        if self._session is not None:
            await self._session.close()
        for task in (*self._tasks, *self._running.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)
        self._tasks.clear()
        self._running.clear()
        self.up.clear()

    async def close_connection_only(self) -> None:
        """Lose the connection and go on working."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        assert self._session is not None
        await self._session.close()
        self.up.clear()

    async def say(self, message: m.Message) -> None:
        """Send one message."""
        assert self._socket is not None
        await self._socket.send_str(codec.encode(message))

    def inventory(self) -> m.Inventory:
        """What the host has now."""
        return m.Inventory(
            pools=self.pools,
            machine_pools=self.machine_pools,
            certificates=self.certificates(),
            keystore_error=self.keystore_error,
            keystore_revision=next(self.revisions),
        )

    def certificates(self) -> tuple[m.CertificateInfo, ...]:
        """The keystore's entries."""
        return tuple(m.CertificateInfo(alias=a, sha256=f) for a, f in self.keystore.items())

    async def report(self) -> None:
        """Send the inventory again."""
        await self.say(m.InventoryReport(inventory=self.inventory()))

    async def _listen(self) -> None:
        assert self._socket is not None
        try:
            async for frame in self._socket:
                message = codec.decode(frame.data, limit=m.TO_AGENT_MAX)
                match message:
                    case m.Welcome():
                        if self.beats:
                            self._tasks.add(asyncio.create_task(self._beat(message.beat_s)))
                        for result in list(self._results.values()):
                            await self.say(result)
                        self.up.set()
                    case m.Refused():
                        self.refusals.append(message)
                        self.up.set()
                    case m.Document():
                        self.documents.append(message)
                        self._follow(message)
                    case m.ResultAck():
                        self.acks.append(message)
                        self._results.pop(message.job, None)
                    case m.InventoryWanted():
                        await self.report()
                    case None:
                        pass
                    case _:
                        self.heard.append(message)
        finally:
            self.up.set()  # whoever waits for an answer learns that none comes

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
            await self.say(m.Beat(clock=time.time(), active=len(self._running)))

    def _follow(self, document: m.Document) -> None:
        wanted = {command.job: command for command in document.commands}
        for job, task in list(self._running.items()):
            if job not in wanted and not task.done():
                task.cancel()
        for job, command in wanted.items():
            if command.fence < self._fences.get(job, 0):
                continue
            self._fences[job] = command.fence
            if job not in self._running:
                self._running[job] = asyncio.create_task(self._carry_out(command))
            elif self._running[job].done() and job in self._results:
                again = self._results[job]
                fresh = m.JobResult(
                    job=job,
                    fence=command.fence,
                    kind=again.kind,
                    done=again.done,
                    failure=again.failure,
                )
                self._tasks.add(asyncio.create_task(self.say(fresh)))

    async def _carry_out(self, command: m.Command) -> None:
        self.log.append(("started", command.job))
        work = self.work.get(command.kind, DEFAULTS.get(command.kind))
        assert work is not None, command.kind
        try:
            await self.say(m.JobStarted(job=command.job, fence=command.fence))
            outcome = await work(self, command)
        except asyncio.CancelledError:
            self.log.append(("cancelled", command.job))
            outcome = m.Failure(code=130, message="cancelled")
        failed = isinstance(outcome, m.Failure)
        self.log.append(("failed" if failed else "done", command.job))
        result = m.JobResult(
            job=command.job,
            fence=self._fences[command.job],
            kind=command.kind,
            done=None if failed else outcome,
            failure=outcome if failed else None,
        )  # type: ignore[arg-type]
        self._results[command.job] = result
        await self.say(result)


# --- what hosts do unless a test says otherwise --------------------------------------------


async def _download(_agent: FakeAgent, command: m.Command) -> m.Done:
    args = command.args
    assert isinstance(args, m.DownloadArgs)
    digest = hashlib.sha256(args.transfer.sources[0].encode()).hexdigest()
    return m.DownloadDone(
        install_path=args.volume,
        virtual_size=1 << 30,
        source_bytes=1 << 20,
        digests={"sha-256": digest},
        integrity="strong",
        validators=m.Validators(size=1 << 20),
        mirrors=(m.MirrorReport(url=args.transfer.sources[0], bytes=1 << 20, requests=1),),
    )


async def _remove(_agent: FakeAgent, _command: m.Command) -> m.Done:
    return m.RemoveDone()


async def _certificates(agent: FakeAgent, command: m.Command) -> m.Done:
    args = command.args
    assert isinstance(args, m.CertificatesArgs)
    for wanted in args.install:
        agent.log.append(("import", wanted.alias))
        agent.keystore[fold(wanted.alias)] = wanted.sha256
    for alias in args.remove:
        agent.log.append(("delete", alias))
        agent.keystore.pop(fold(alias), None)
    aliases = (*(w.alias for w in args.install), *args.remove)
    return m.CertificatesDone(
        outcomes=tuple(m.AliasOutcome(alias=alias) for alias in aliases),
        certificates=agent.certificates(),
        keystore_revision=next(agent.revisions),
    )


async def _probe(_agent: FakeAgent, command: m.Command) -> m.Done:
    return m.ProbeDone(
        size=1 << 20,
        virtual_size=1 << 30,
        format="qcow2",
        ranges=True,
        validators=m.Validators(size=1 << 20, etag='"v1"'),
    )


async def _check(_agent: FakeAgent, _command: m.Command) -> m.Done:
    return m.CheckDone(accepted=True, accepted_by="system")


async def _audit(_agent: FakeAgent, _command: m.Command) -> m.Done:
    return m.AuditDone(state="intact", bytes=1 << 20)


async def _machine(_agent: FakeAgent, command: m.Command) -> m.Done:
    args = command.args
    assert isinstance(args, m.MachineArgs)
    return m.MachineDone(state=args.state, disk_size=args.disk_size or 1 << 30)


DEFAULTS: dict[str, Work] = {
    "download": _download,
    "remove": _remove,
    "certificates": _certificates,
    "probe": _probe,
    "check": _check,
    "audit": _audit,
    "machine": _machine,
}


def local_pool(name: str) -> m.PoolInfo:
    """A pool of one host."""
    return m.PoolInfo(
        id=f"{name}-id", name=name, type=m.PoolType.FILESYSTEM, capacity=1 << 40, available=1 << 39
    )


def shared_pool(name: str, *, proof: str | None = None) -> m.PoolInfo:
    """A pool that several hosts reach."""
    return m.PoolInfo(
        id=f"{name}-id",
        name=name,
        type=m.PoolType.NETWORK_FILESYSTEM,
        shared=True,
        capacity=1 << 40,
        available=1 << 39,
        proof=proof,
    )
