# SPDX-License-Identifier: Apache-2.0
"""Managers that wake each other through NATS, where there are too many of them, or too much
progress to relay, for the ledger's database.

A JetStream stream keeps the last message of each subject ("host H has a new document", "the
settings changed"), in memory: a manager whose connection was lost reads what was said meanwhile,
and nothing else. What the stream cannot know (it was lost, made anew, or forgot) is answered by
``RESYNC``: the ledger has everything. After every fault the connection is made anew, by us and not
by the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError

from fastdl.manager.fabric import GONE, PASSING, RESYNC, Message, Receive
from fastdl.manager.fabric.nats_subjects import MESSAGE_MAX, Derive, Envelopes, Subjects
from fastdl.manager.fabric.outbox import Outbox
from fastdl.manager.fabric.watch import BEAT_S, Watch
from fastdl.tasks import attempt, end_if_cancelled
from fastdl.wire.nats.client import Client
from fastdl.wire.nats.connection import REPLY_S, Connector, Who, check_jetstream, reason
from fastdl.wire.nats.servers import Servers

log = logging.getLogger(__name__)

KEPT_S: Final = 3600.0
KEPT_BYTES: Final = 64 << 20
BEHIND_MAX: Final = 20_000
"""Messages after which looking at everything once is cheaper than reading them."""
REPLICAS: Final = 3
REPLICATE_S: Final = 10.0
UNSERVED_S: Final = 12.0
"""A cluster chooses another leader for a stream in half of the time."""
AGAIN_S: Final = 0.5
SPACING_S: Final = 0.01
TOGETHER: Final = 128
"""Messages that are under way at a time."""
SILENT_S: Final = 5.0
"""The stream sends heartbeats: without any it was deleted, or its server died."""
_HEARTBEAT_S: Final = 1.0
_ALIVE: Final = ("alive",)
_LEFT: Final = ("left",)


class NatsFabric:
    """The managers of one ledger on the NATS servers of *servers*."""

    def __init__(self, servers: Servers, name: str, derive: Derive) -> None:
        """*name*: this manager's own, unique among those of one ledger; *derive*: ``Derive``."""
        self._servers = servers
        who = Who(title="this manager", name="fastdl manager")
        self._connector = Connector(servers, who, broken=self._note_broken, check=check_jetstream)
        self._name = name
        self._subjects = Subjects(derive)
        self._envelopes = Envelopes(derive, name)
        self._outbox = Outbox()
        self._watch = Watch(name)
        self._position = _Position()
        self._missed = False
        """``RESYNC`` is due."""
        self._unserved: float | None = None
        """Since when the stream is not served."""
        self._stream_heard = 0.0
        self._broken: str | None = None
        self._said = ""
        """The reason in the log of why nobody is heard."""
        self.receive: Receive = lambda _message: None
        """Called with each message of another manager, and with ``RESYNC`` and ``GONE``."""
        self.hears = False
        """Whether messages can arrive now."""

    def notify(self, topic: str, *words: str) -> None:
        """Tell every other manager soon; one that waits to be sent is not sent twice."""
        self._outbox.add((topic, *words))

    async def check(self) -> None:
        """UsageError if a server answers and can never be used: its version, credentials, TLS.
        Servers that are away do not keep a manager from its work."""
        try:
            async with self._connected():
                return
        except (NatsError, OSError, TimeoutError) as exc:
            log.error("NATS at %s is not reached yet: %s", self._servers, reason(exc))

    async def run(self) -> None:
        """Send and receive until cancelled."""
        while True:
            try:
                await attempt(self._session())
            except Exception as exc:  # noqa: BLE001 - the client's, the system's, and groups of them
                if (why := reason(exc)) != self._said:
                    log.warning("other managers are not heard: %s", why)
                self._said = why
            finally:
                self.hears = False
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """``run`` leaves nothing."""

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        async with self._connector.connected() as client:
            self._broken = None
            yield client

    def _note_broken(self, why: Exception | None) -> None:
        self._broken = "connection lost" if why is None else reason(why)

    # --- one connection's life -----------------------------------------------------------------

    async def _session(self) -> None:
        async with self._connected() as client:
            await self._serve(client)

    async def _serve(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        js = client.jetstream(timeout=REPLY_S)
        info = await self._stream(js)
        self._missed |= self._position.resume(info, now=loop.time())
        self._watch.connected(loop.time())
        self._stream_heard = loop.time()
        await client.subscribe(self._subjects.passing, cb=self._passing)
        await client.subscribe(self._subjects.beat, cb=self._beaten)
        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=self._kept)
        await js.add_consumer(
            self._subjects.stream,
            ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._position.sequence + 1,
                deliver_subject=inbox,
                ack_policy=AckPolicy.NONE,
                idle_heartbeat=_HEARTBEAT_S,
                inactive_threshold=10 * SILENT_S,
                num_replicas=1,
                mem_storage=True,
            ),
        )
        if self._missed:
            self._missed = False
            self.receive((RESYNC,))
        self.hears, self._said = True, ""
        log.info("other managers are heard", extra={"nats": str(self._servers)})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(client, js))
                group.create_task(self._beat(client))
                group.create_task(self._replicate(js))
        except asyncio.CancelledError:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await client.publish(self._subjects.beat, self._envelopes.seal(_LEFT))
                    await client.flush(1)
            raise

    async def _stream(self, js: JetStreamContext) -> StreamInfo:
        """The stream, which is made if there is none.

        One that is not served for a while is deleted: its servers may never come back, and it has
        nothing that is not in the ledger.
        """
        now = asyncio.get_running_loop().time()
        try:
            info = await self._served(js)
        except (NatsError, OSError):
            if self._unserved is None:
                self._unserved = now
            elif now - self._unserved > UNSERVED_S:
                log.warning("the stream of messages is not served, and is made anew")
                self._unserved = None
                await js.delete_stream(self._subjects.stream)
            raise
        self._unserved = None
        return info

    async def _served(self, js: JetStreamContext) -> StreamInfo:
        try:
            info = await js.stream_info(self._subjects.stream)
        except NotFoundError:
            config = StreamConfig(
                name=self._subjects.stream,
                description="fastdl: what managers say to each other; may be deleted at any time",
                subjects=[self._subjects.kept],
                max_msgs_per_subject=1,
                max_age=KEPT_S,
                max_bytes=KEPT_BYTES,
                max_msg_size=MESSAGE_MAX,
                discard=DiscardPolicy.OLD,
                storage=StorageType.MEMORY,
                allow_direct=True,
                num_replicas=REPLICAS,
            )
            try:
                info = await js.add_stream(config)
            except APIError:  # there are fewer servers, for now or permanently
                info = await js.add_stream(config.evolve(num_replicas=1))
        if info.cluster is not None and info.cluster.name and not info.cluster.leader:
            raise ConnectionError("the stream has no leader")
        return info

    async def _replicate(self, js: JetStreamContext) -> None:
        """Have the stream on several servers of a cluster, as soon as there are as many."""
        while True:
            with contextlib.suppress(NatsError):  # there are not yet, or never
                info = await js.stream_info(self._subjects.stream)
                if info.cluster and info.cluster.name and info.config.num_replicas != REPLICAS:
                    await js.update_stream(info.config.evolve(num_replicas=REPLICAS))
            end_if_cancelled()
            await asyncio.sleep(REPLICATE_S)

    async def _send_all(self, client: Client, js: JetStreamContext) -> None:
        while True:
            await self._outbox.wake.wait()
            self._outbox.wake.clear()
            while batch := self._outbox.first(TOGETHER):
                self._outbox.remove(batch)
                try:
                    for passing in self._sealed([m for m in batch if m[0] in PASSING]):
                        await client.publish(self._subjects.passing, passing)
                    kept = (self._keep(js, m) for m in batch if m[0] not in PASSING)
                    await asyncio.gather(*kept)
                except BaseException:
                    self._outbox.put_back(batch)
                    self._outbox.wake.set()
                    raise
            await asyncio.sleep(SPACING_S)

    async def _keep(self, js: JetStreamContext, message: Message) -> None:
        for data in self._sealed([message]):
            await js.publish(self._subjects.of(message), data, stream=self._subjects.stream)

    def _sealed(self, messages: Sequence[Message]) -> Iterator[bytes]:
        """Yield *messages* as they are sent, together as far as they fit; none that is too long:
        what it is about is in the ledger."""
        if not messages:
            return
        data = self._envelopes.seal(*messages)
        if len(data) <= MESSAGE_MAX:
            yield data
        elif len(messages) > 1:
            half = len(messages) // 2
            yield from self._sealed(messages[:half])
            yield from self._sealed(messages[half:])

    async def _beat(self, client: Client) -> None:
        """Say that this manager is alive, and notice who does not."""
        loop = asyncio.get_running_loop()
        alive = self._envelopes.seal(_ALIVE)
        while True:
            if self._broken is not None:
                raise ConnectionError(self._broken)
            await client.publish(self._subjects.beat, alive)
            said = loop.time()
            await asyncio.sleep(BEAT_S)
            now = loop.time()
            if now - said > 2 * BEAT_S:
                continue  # this manager stood still: nothing could be heard
            if self._watch.is_deaf(now):
                raise ConnectionError("what this manager says does not come back")
            if now - self._stream_heard > SILENT_S:
                raise ConnectionError("the stream is silent")
            self._position.healthy = now
            for name in self._watch.take_gone(now):
                self.receive((GONE, name))

    # --- what comes in -------------------------------------------------------------------------

    async def _passing(self, msg: Msg) -> None:
        self._deliver(msg.data, kept=False)

    async def _beaten(self, msg: Msg) -> None:
        if (found := self._envelopes.open(msg.data)) is None:
            return
        if _LEFT in found[1]:
            self._watch.leave(found[0])
        else:
            self._watch.hear(found[0], asyncio.get_running_loop().time())

    async def _kept(self, msg: Msg) -> None:
        self._stream_heard = asyncio.get_running_loop().time()
        if (headers := msg.headers) and headers.get("Status"):
            delivered = int(headers.get("Nats-Last-Consumer") or 0)
        else:
            sequence = msg.metadata.sequence
            delivered = sequence.consumer
            self._position.step(stream=sequence.stream)
            self._deliver(msg.data, kept=True)
        if delivered != self._position.delivered:
            self._broken = "messages of the stream are missing"

    def _deliver(self, data: bytes, *, kept: bool) -> None:
        found = self._envelopes.open(data)
        if found is None or found[0] == self._name:
            return
        for message in found[1]:
            if kept or message[0] in PASSING:
                self.receive(message)


class _Position:
    """How far this manager has read the stream."""

    def __init__(self) -> None:
        self.sequence = 0
        self.delivered = 0
        """Messages that came on this connection."""
        self.healthy = 0.0
        """When it was certain that nothing was missed."""
        self._made: datetime | None = None

    def resume(self, info: StreamInfo, *, now: float) -> bool:
        """Go on where this manager was, on a new connection; whether messages may be missing."""
        last = info.state.last_seq
        missed = (
            self._made != info.created
            or not self.sequence <= last <= self.sequence + BEHIND_MAX
            or now - self.healthy > KEPT_S / 2
        )
        if missed:
            self.sequence = last
        self._made, self.delivered = info.created, 0
        return missed

    def step(self, *, stream: int) -> None:
        """One more message came: number *stream* of the stream."""
        self.sequence = max(self.sequence, stream)
        self.delivered += 1
