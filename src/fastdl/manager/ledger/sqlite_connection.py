# SPDX-License-Identifier: Apache-2.0
"""How does a statement reach SQLite, and its rows come back? In one call of a thread.

aiosqlite has a thread for each connection, which waits for storage in place of the event loop.
SQLAlchemy asks it for a cursor, to execute, to fetch and to close: four calls, each with two
switches between threads, that cost more than most statements. Here executing does all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite

_Call = Callable[[], sqlite3.Cursor]


async def connected(path: str) -> aiosqlite.Connection:
    """An open connection to the database at *path*."""
    # Tools may look at it from another thread while it rests.
    connection = _Connection(partial(sqlite3.connect, path, check_same_thread=False), 64)
    # One left open must not keep the program. Until aiosqlite 0.22 a connection is its thread.
    thread: Any = getattr(connection, "_thread", connection)
    thread.daemon = True
    return await connection


class _Connection(aiosqlite.Connection):
    def cursor(self) -> Any:
        return _Cursor(self)

    async def whole(self, call: _Call) -> tuple[sqlite3.Cursor, Sequence[Any], Any]:
        """What *call* executed, with all its rows and their description; no statement of it is open
        any more."""
        in_thread: Any = self._execute
        found: tuple[sqlite3.Cursor, Sequence[Any], Any] = await in_thread(_whole, call)
        return found

    def executing(self, sql: str, parameters: Any) -> _Call:
        return partial(self._conn.execute, sql, parameters)

    def executing_many(self, sql: str, parameters: Iterable[Any]) -> _Call:
        return partial(self._conn.executemany, sql, parameters)


def _whole(call: _Call) -> tuple[sqlite3.Cursor, Sequence[Any], Any]:
    cursor = call()
    try:
        described = cursor.description
        return cursor, cursor.fetchall() if described else (), described
    finally:
        cursor.close()


class _Cursor:
    """What SQLAlchemy uses of an aiosqlite cursor."""

    arraysize = 1

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, parameters: Any = ()) -> Self:
        return await self._done(self._connection.executing(sql, parameters))

    async def executemany(self, sql: str, parameters: Iterable[Any]) -> Self:
        return await self._done(self._connection.executing_many(sql, parameters))

    async def _done(self, call: _Call) -> Self:
        cursor, self._rows, self.description = await self._connection.whole(call)
        self.rowcount, self.lastrowid = cursor.rowcount, cursor.lastrowid
        return self

    async def fetchall(self) -> Sequence[Any]:
        rows, self._rows = self._rows, ()
        return rows

    async def close(self) -> None:
        self._rows = ()
