# SPDX-License-Identifier: Apache-2.0
"""SQLite in the loop's own thread, and without the layers that lead to another one.

The ledger's statements, transactions and savepoints are the same, in the same order: SQLAlchemy
runs them with the ``sqlite3`` module. What is left out (a greenlet, a task and several objects for
each statement) only waits for a thread, and is most of what a simulated zone would cost.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest import mock

from sqlalchemy import Connection, CursorResult, Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from fastdl.manager.ledger import engine as ledger_engine


class _Cursor(sqlite3.Cursor):
    """Reads every row at once, as the cursor does that it stands for: what is written while the
    rows are looked at does not change them."""

    _rows: Iterator[Any] = iter(())

    def execute(self, sql: str, parameters: Any = ()) -> _Cursor:
        """Run *sql*, and read what it returns."""
        super().execute(sql, parameters)
        self._rows = iter(super().fetchall())
        return self

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self._rows)


class _Raw(sqlite3.Connection):
    def cursor(self, _factory: Any = None) -> Any:
        """Return a cursor that reads every row at once."""
        return super().cursor(_Cursor)


class InlineConnection:
    """What the ledger uses of an ``AsyncConnection``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> CursorResult[Any]:
        """As ``AsyncConnection.execute``."""
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """As ``AsyncConnection.scalar``."""
        return self._connection.scalar(statement, parameters)

    async def get_raw_connection(self) -> Any:
        """As ``AsyncConnection.get_raw_connection``."""
        return self._connection.connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[_Transaction]:
        """As ``AsyncConnection.begin``."""
        with self._connection.begin() as transaction:
            yield _Transaction(transaction)

    async def begin_nested(self) -> _Transaction:
        """As ``AsyncConnection.begin_nested``."""
        return _Transaction(self._connection.begin_nested())


class _Transaction:
    def __init__(self, transaction: Any) -> None:
        self._transaction = transaction

    async def commit(self) -> None:
        self._transaction.commit()

    async def rollback(self) -> None:
        self._transaction.rollback()


class InlineEngine:
    """What the ledger uses of an ``AsyncEngine``."""

    def __init__(self, engine: Engine) -> None:
        self.sync_engine = engine
        self.dialect = engine.dialect

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[InlineConnection]:
        """As ``AsyncEngine.connect``."""
        with self.sync_engine.connect() as connection:
            yield InlineConnection(connection)

    async def dispose(self) -> None:
        """As ``AsyncEngine.dispose``."""
        self.sync_engine.dispose()


def _inline_engine(url: str, **options: Any) -> Any:
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(url, **options)
    return InlineEngine(
        create_engine(
            make_url(url).set(drivername="sqlite"),
            hide_parameters=options["hide_parameters"],
            connect_args={"factory": _Raw, "check_same_thread": False},
            poolclass=QueuePool,
            max_overflow=-1,  # whoever waited for a connection here would wait for itself
        )
    )


@contextlib.contextmanager
def inline_sqlite() -> Iterator[None]:
    """Ledgers on SQLite that are opened meanwhile need neither threads nor greenlets."""
    with mock.patch.object(ledger_engine, "create_async_engine", _inline_engine):
        yield
