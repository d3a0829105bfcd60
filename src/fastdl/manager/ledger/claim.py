# SPDX-License-Identifier: Apache-2.0
"""Who may use a ledger: a claim that ends with the process that holds it.

SQLite: one manager at a time, by a lock on a file next to the database. PostgreSQL: any number,
each under a name of its own, by advisory locks of a connection that is used for nothing else: one
that they share (managers of an older version want it for themselves) and one for the name. The
server releases them as soon as that connection ends, so a manager that was killed does not keep the
next one out. After a restart of the server the claim is made again; if another manager took the
name meanwhile, this one has lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from fastdl import fs
from fastdl.errors import UsageError
from fastdl.manager.ledger.engine import KEEPALIVE, LEDGER_NUMBER, driver_url, opening

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
AGAIN_S: Final = 0.2
PATIENCE_S: Final = 3.0
"""How long the claim of a manager that was killed a moment ago may take to end."""
_NAME_MAX: Final = 63
"""Longer application names are cut by the server."""

_SHARE: Final = text("SELECT pg_try_advisory_lock_shared(:number)")
_NAME_NUMBER: Final = text(
    "SELECT hashtextextended("
    "'fastdl manager ' || coalesce(current_schema(), '') || ' ' || cast(:name AS text), 0)"
)
_TAKE: Final = text("SELECT pg_try_advisory_lock(:number)")
_HOLDER: Final = text(
    "SELECT a.application_name, host(a.client_addr) AS address FROM pg_locks l "
    "JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((l.classid::bigint << 32) | l.objid::bigint) = :number"
)


class Claim:
    """A claim on a ledger. *lost* is set once another manager has what it needs."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()


@contextlib.asynccontextmanager
async def claimed(url: str, name: str) -> AsyncIterator[Claim]:
    """Be a manager of the ledger at *url*, the only one called *name*; UsageError if there is
    another one that this one cannot work with."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with _locked(Path(parsed.database or "")):
            yield Claim()
        return
    async with _Postgresql(url, name) as claim:
        yield claim


@contextlib.contextmanager
def _locked(database: Path) -> Iterator[None]:
    path = database.with_name(database.name + ".lock")
    try:
        fd = fs.open_locked(path)
    except BlockingIOError:
        raise UsageError(
            f"another manager uses the ledger {database}: one on SQLite has one manager at a time"
        ) from None
    except OSError as exc:
        raise UsageError(f"the ledger's lock {path} cannot be used: {exc.strerror}") from exc
    try:
        yield
    finally:
        os.close(fd)


class _Postgresql:
    """The claim on a database of PostgreSQL, from the start of the context to its end."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        shown = f"fastdl manager on {socket.gethostname()}, process {os.getpid()}"
        settings = {"application_name": shown[-_NAME_MAX:], **KEEPALIVE}
        self._engine: AsyncEngine = create_async_engine(
            driver_url(url),
            hide_parameters=True,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"server_settings": settings},
        )
        self._connection: AsyncConnection | None = None
        self._shared = self._own = 0
        self._refused = 0
        """The number of the lock that another manager holds."""
        self._claim = Claim()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Claim:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        with opening(self._url):
            while not await self._take():
                if loop.time() > until:
                    why = await self._why()
                    await self._close()
                    raise UsageError(why)
                await asyncio.sleep(AGAIN_S)
        self._watch = asyncio.create_task(self._keep(), name="ledger-claim")
        return self._claim

    async def __aexit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._close()

    async def _take(self) -> bool:
        """Whether the claim is ours now; the connection stays either way."""
        if self._connection is None:
            connection = self._connection = await self._engine.connect()
            self._shared = int(await connection.scalar(LEDGER_NUMBER) or 0)
            self._own = int(await connection.scalar(_NAME_NUMBER, {"name": self._name}) or 0)
        for lock, number in ((_SHARE, self._shared), (_TAKE, self._own)):
            if not await self._connection.scalar(lock, {"number": number}):
                self._refused = number
                return False
        return True

    async def _why(self) -> str:
        """Why the claim cannot be made."""
        holder, database = await self._holder(), driver_url(self._url, shown=True)
        if self._refused == self._shared:
            return (
                f"a manager of an older version uses the database {database}{holder}, and shares "
                "it with no other: stop it first"
            )
        return (
            f"a manager with the same name uses the database {database}{holder}: its state folder "
            "was copied. Each manager has its own: delete the file 'instance' in this one"
        )

    async def _holder(self) -> str:
        """Who has the lock that was refused, as far as the server reveals it."""
        assert self._connection is not None
        row = (await self._connection.execute(_HOLDER, {"number": self._refused})).first()
        if row is None or not row.application_name:
            return ""
        where = f", from {row.address}" if row.address else ""
        return f" ({row.application_name}{where})"

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await connection.close()
        await self._engine.dispose()

    async def _keep(self) -> None:
        """Watch the claim: make it again when the connection has ended."""
        while True:
            await asyncio.sleep(CHECK_S if self._connection is not None else AGAIN_S)
            try:
                async with asyncio.timeout(30):
                    if self._connection is not None:
                        await self._connection.execute(text("SELECT 1"))
                        continue
                    if await self._take():
                        log.warning("the claim on the ledger was renewed")
                        continue
                    log.error("the claim on the ledger is lost: %s", await self._why())
                    self._claim.lost.set()
                    return
            except (DBAPIError, OSError, TimeoutError) as exc:
                if self._connection is not None:
                    log.warning("the claim on the ledger was lost: %s", type(exc).__name__)
                await self._close()
