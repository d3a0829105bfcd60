# SPDX-License-Identifier: Apache-2.0
"""Two managers' places at one ledger and one fabric, of each combination that fastdl supports."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.manager.fabric import RESYNC, Fabric, LocalFabric, Message, SharedFabric
from fastdl.manager.fabric.nats_fabric import NatsFabric
from fastdl.manager.ledger.engine import Ledger, default_url, driver_url, open_ledger
from fastdl.manager.ledger.listening import PostgresqlFabric
from fastdl.wire.nats.servers import servers_of
from tests.env import nats

COMBINATIONS = ("SQLite + local", "PostgreSQL + local", "PostgreSQL + NATS")
_LISTENERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%' OR query = 'SELECT 1')"
)


def derive(purpose: str) -> bytes:
    """What both managers know."""
    return hmac.digest(b"k" * 32, purpose.encode(), "sha256")


@dataclass(slots=True)
class Seat:
    """One manager's end of the fabric. *heard*: what it heard of the others."""

    fabric: Fabric
    heard: list[Message] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, kw_only=True)
class Combination:
    """Where the ledger is, and what carries messages. *database*: None = SQLite."""

    name: str
    folder: Path
    database: str | None = None
    nats: nats.Server | None = None

    @property
    def shared(self) -> bool:
        """Whether several managers can use it."""
        return self.database is not None

    @property
    def options(self) -> dict[str, str]:
        """What a manager's configuration says of it."""
        found = {} if self.database is None else {"database": self.database}
        return found if self.nats is None else {**found, "fabric": self.nats.url}

    @contextlib.asynccontextmanager
    async def ledgers(self) -> AsyncIterator[tuple[Ledger, Ledger]]:
        """Two managers' ledgers; of SQLite the only one, twice."""
        url = self.database or default_url(self.folder)
        opened = [await asyncio.to_thread(open_ledger, url) for _ in range(1 + self.shared)]
        try:
            yield opened[0], opened[-1]
        finally:
            for one in opened:
                await one.close()

    @contextlib.asynccontextmanager
    async def seats(self, names: Sequence[str] = ("a", "b")) -> AsyncIterator[list[Seat]]:
        """Managers that hear each other, as far as there can be several."""
        made = [Seat(self.fabric(name)) for name in names]
        try:
            for seat in made:
                self.listen(seat)
            if self.shared:
                await until(lambda: all(seat.heard for seat in made))
            for seat in made:
                seat.heard.clear()
            yield made
        finally:
            for seat in made:
                await self.leave(seat)

    def fabric(self, name: str) -> Fabric:
        """The fabric of the manager *name*."""
        if self.database is None:
            return LocalFabric()
        if self.nats is None:
            return PostgresqlFabric(self.database, name)
        return fabric(self.nats.url, name)

    def listen(self, seat: Seat) -> None:
        """Start its fabric."""
        if not isinstance(seat.fabric, LocalFabric):
            fabric: SharedFabric = seat.fabric  # type: ignore[assignment]
            fabric.receive = seat.heard.append
            seat.task = asyncio.create_task(fabric.run())

    async def leave(self, seat: Seat) -> None:
        """Stop its fabric, as a manager does that stops."""
        if seat.task is not None:
            seat.task.cancel()
            await asyncio.gather(seat.task, return_exceptions=True)
            await seat.fabric.close()  # type: ignore[attr-defined]

    async def interrupt(self, *, wipe: bool) -> None:
        """End every connection that messages go over; *wipe*: what was stored of them is lost."""
        if self.nats is not None:
            self.nats.kill(wipe=wipe)
            await asyncio.to_thread(self.nats.start)
        elif self.database is not None:
            engine = create_async_engine(driver_url(self.database))
            async with engine.connect() as connection:
                await connection.execute(_LISTENERS)
            await engine.dispose()


async def until(check: Callable[[], bool], *, within: float = 15.0) -> None:
    """Wait for *check* to become true."""
    async with asyncio.timeout(within):
        while not check():
            await asyncio.sleep(0.02)


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}{random.getrandbits(48):x}"


class Heard(list[Message]):
    """What one manager heard; ``task`` is its fabric."""

    task: asyncio.Task[None]


@contextlib.asynccontextmanager
async def listening(*fabrics: NatsFabric, within: float = 15) -> AsyncIterator[list[Heard]]:
    """The fabrics run, and each is connected."""
    heard = [Heard() for _ in fabrics]
    for fabric, messages in zip(fabrics, heard, strict=True):
        fabric.receive = messages.append
        messages.task = asyncio.create_task(fabric.run())
    try:
        await until(lambda: all((RESYNC,) in messages for messages in heard), within=within)
        for messages in heard:
            messages.clear()
        yield heard
    finally:
        for messages in heard:
            messages.task.cancel()
        await asyncio.gather(*(messages.task for messages in heard), return_exceptions=True)


def fabric(url: str, name: str = "a", **files: str) -> NatsFabric:
    """The manager *name* on the NATS servers at *url*."""
    return NatsFabric(servers_of(url, **files), name, derive)
