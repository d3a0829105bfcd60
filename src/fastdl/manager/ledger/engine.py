# SPDX-License-Identifier: Apache-2.0
"""Opening the ledger, and transactions on it.

``Ledger.read()`` is a connection for queries, which all see one state; ``Ledger.write(work)`` runs
``work(tx)`` in a transaction and returns its result once it is durable. SQLite has one writer:
calls that wait while a commit is under way share the next one (group commit), each in a
savepoint of its own, so that one that fails does not undo the others. PostgreSQL has many
writers; a lost race (a deadlock, a row that another transaction made at the same moment) or a
lost connection runs *work* again, so it must not keep state outside *tx*.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InvalidatePoolError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from fastdl.errors import FastdlError, InternalError, UsageError
from fastdl.manager.ledger.sqlite_connection import connected

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

GROUP_MAX: Final = 64
"""Calls that share one SQLite commit: bounds how long a commit holds the write lock."""
_LOST_RACES: Final = {"40001", "40P01", "23505"}
"""Serialisation failure, deadlock, and a unique row that another transaction inserted in the
meantime: *work*, run again, finds that row.
"""
_UNUSABLE: Final = (DBAPIError, PoolTimeoutError, OSError)
"""What a database that is unreachable (the driver lets OSError through), full or busy raises."""
KEEPALIVE: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""A machine that loses power closes no connection: the server has to probe."""
_SESSION: Final = {
    **KEEPALIVE,
    "tcp_user_timeout": "15000",
    "idle_in_transaction_session_timeout": "15000",
}
"""A manager that is cut off, or stands still, in the middle of a transaction must not keep the
others from the rows that it has locked. Milliseconds."""
LEDGER_NUMBER: Final = text(
    "SELECT hashtextextended('fastdl manager ' || coalesce(current_schema(), ''), 0)"
)
"""A number for each schema of a PostgreSQL database: that is what makes a ledger."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Ledger:
    """One open database. Make it with ``open_ledger``."""

    def __init__(self, reader: AsyncEngine, writer: AsyncEngine) -> None:
        self._reader = reader
        self._writer = writer
        self.sqlite = writer.dialect.name == "sqlite"
        self._waiting: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._committer: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that sees one state of the ledger, whatever is written in the meantime; for
        queries only. The state is that of its first query.
        """
        try:
            async with self._reader.connect() as connection:
                yield connection
        except _UNUSABLE as exc:
            _raise_ledger_error(exc)

    async def write(self, work: Work[T]) -> T:
        """Run *work* in a transaction; when this returns, its effects are durable."""
        if not self.sqlite:
            return await self._write_own(work)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit_groups(), name="ledger-commit")
        # A caller that is cancelled gives up waiting; its work may still be committed.
        return await asyncio.shield(future)

    async def close(self) -> None:
        """Finish the transactions under way and close every connection."""
        if self._committer is not None:
            await asyncio.wait({self._committer})
        await self._reader.dispose()
        await self._writer.dispose()

    async def _write_own(self, work: Work[T]) -> T:
        for tries_left in (4, 3, 2, 1, 0):
            committing = False
            try:
                async with self._writer.connect() as tx:
                    result = await work(tx)
                    committing = True
                    await tx.commit()
                    return result
            except _UNUSABLE as exc:
                if not tries_left or not _may_run_again(exc, committing=committing):
                    _raise_ledger_error(exc)
        raise AssertionError("unreachable")

    async def _commit_groups(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
            outcomes: Sequence[Any] = [asyncio.CancelledError()] * len(group)
            try:
                outcomes = await self._commit_or_retry([work for work, _ in group])
            finally:  # whatever ends this task, no caller is left waiting
                for (_, future), outcome in zip(group, outcomes, strict=True):
                    if future.done():
                        continue
                    if isinstance(outcome, asyncio.CancelledError):
                        future.cancel()
                    elif isinstance(outcome, BaseException):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)

    async def _commit_or_retry(self, works: list[Work[Any]]) -> list[Any]:
        """Commit *works* together; if SQLite rolled the whole transaction back, none of it
        happened, and each is tried once more on its own.
        """
        try:
            return await self._commit_group(works)
        except Exception as exc:  # noqa: BLE001 - every waiting caller must hear of it
            log.warning("a commit failed and is retried", extra={"error": _first_line(exc)})
        outcomes: list[Any] = []
        for work in works:
            try:
                outcomes += await self._commit_group([work])
            except Exception as exc:  # noqa: BLE001 - as above
                outcomes.append(_ledger_error(exc) if isinstance(exc, _UNUSABLE) else exc)
        return outcomes

    async def _commit_group(self, works: list[Work[Any]]) -> list[Any]:
        """Run each of *works* in a savepoint of one transaction and commit it; a single one needs
        no savepoint.

        On no space, an I/O error, no memory or an interrupt SQLite may roll the *transaction*
        back by itself, savepoints and all. Then there is nothing to roll back to (only the error
        "no such savepoint"), and continuing would commit each statement on its own.
        """
        outcomes: list[Any] = []
        async with self._writer.connect() as tx, tx.begin() as group:
            connection: Any = (await tx.get_raw_connection()).driver_connection
            for work in works:
                part = await tx.begin_nested() if len(works) > 1 else group
                try:
                    outcome = await work(tx)
                except Exception as exc:
                    if not connection.in_transaction or _is_fatal(exc):
                        raise
                    await part.rollback()
                    outcomes.append(exc)  # for the caller of this work alone
                else:
                    await part.commit()
                    outcomes.append(outcome)
        return outcomes


def _may_run_again(exc: BaseException, *, committing: bool) -> bool:
    """Whether a failed transaction certainly had no effect, and may succeed now."""
    if not isinstance(exc, DBAPIError):
        return False
    if exc.connection_invalidated:  # the connection was lost: a commit under way may have happened
        return not committing
    return getattr(exc.orig, "sqlstate", None) in _LOST_RACES


def _is_fatal(exc: Exception) -> bool:
    """Whether more than one statement of a SQLite transaction is in doubt."""
    return isinstance(exc, DBAPIError) and not isinstance(exc, IntegrityError)


def _ledger_error(exc: Exception) -> Exception:
    """Return what an operator can act on; a violated constraint stays as it is."""
    if isinstance(exc, IntegrityError):
        return exc
    return InternalError(f"the ledger cannot be used now: {_first_line(exc)}", phase="ledger")


def _raise_ledger_error(exc: Exception) -> NoReturn:
    error = _ledger_error(exc)
    if error is exc:
        raise exc
    raise error from exc


def _first_line(exc: BaseException) -> str:
    """The database's message, without the names of the exception classes that wrap it."""
    said = (exc.orig if isinstance(exc, StatementError) else None) or exc
    said = said.__cause__ or said
    return (str(said).splitlines() or [""])[0][:200] or type(said).__name__


def default_url(state: Path) -> str:
    """Return the URL of the embedded database in the state folder."""
    return f"sqlite:///{default_path(state)}"


def default_path(state: Path) -> Path:
    """Return where the embedded database in the state folder is."""
    return state / "manager.db"


def driver_url(url: str, *, shown: bool = False) -> str:
    """Return the URL of a PostgreSQL database with its driver, or as it may be *shown*."""
    parsed = make_url(url)
    if shown:
        return parsed.render_as_string(hide_password=True)
    return parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


@contextlib.contextmanager
def opening(url: str) -> Iterator[None]:
    """UsageError if the database cannot be opened."""
    try:
        yield
    except (OSError, DBAPIError) as exc:
        where = driver_url(url, shown=True)
        raise UsageError(f"the database {where} cannot be opened: {_first_line(exc)}") from exc


def check_url(url: str) -> None:
    """UsageError if *url* names no database that can be used here."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError("--database is a URL: sqlite:////PATH or postgresql://…") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite" and not parsed.database:
        raise UsageError("--database sqlite needs a file: sqlite:////var/lib/fastdl/manager.db")
    if backend not in {"sqlite", "postgresql"}:
        raise UsageError(f"--database: {backend} is not supported; use sqlite or postgresql")
    if backend == "postgresql" and importlib.util.find_spec("asyncpg") is None:
        raise UsageError(
            "--database postgresql://… needs the Python package asyncpg: "
            "pip install '.[scale]' in fastdl's source folder"
        )


def open_ledger(url: str) -> Ledger:
    """Bring the schema of the database at *url* up to date and open it.

    *url* is SQLAlchemy's, without a driver: ``sqlite:////path`` or ``postgresql://…``.
    Raises UsageError for other engines, for a database made by a newer fastdl, and for a
    damaged one (with what to do); nothing is changed then.
    """
    check_url(url)
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite(Path(parsed.database or ""))
        return _open_sqlite(parsed.database or "")
    return _open_postgresql(url)


def _open_sqlite(path: str) -> Ledger:
    sync = create_engine(f"sqlite:///{path}", hide_parameters=True)
    _prepare_sqlite(sync, begin="BEGIN EXCLUSIVE")
    with sync.connect() as connection:
        _migrate(connection)
    sync.dispose()
    writer, reader = (
        create_async_engine(
            f"sqlite+aiosqlite:///{path}",
            hide_parameters=True,
            pool_size=connections,
            max_overflow=0,
            async_creator=partial(connected, path),
        )
        for connections in (1, 4)
    )
    # IMMEDIATE: take the write lock first, so that no transaction fails half-way without it.
    _prepare_sqlite(writer.sync_engine, begin="BEGIN IMMEDIATE")
    _prepare_sqlite(reader.sync_engine, begin="BEGIN")
    return Ledger(reader, writer)


def _open_postgresql(url: str) -> Ledger:
    engine = create_async_engine(
        driver_url(url),
        hide_parameters=True,
        pool_size=10,
        max_overflow=0,
        pool_timeout=30,
        connect_args={"server_settings": _SESSION},
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)

    async def migrate() -> None:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate)
        await engine.dispose()  # its connections belong to this short-lived loop

    with opening(url):
        asyncio.run(migrate())
    # A response is built from several queries. The same pool, and nothing that a writer waits for.
    reader = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return Ledger(reader, engine)


def _refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """After a restart of the server: renew connections instead of failing on first use."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def _prepare_sqlite(engine: Any, *, begin: str) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we start transactions ourselves, see below
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=10000",
            "temp_store=MEMORY",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _check_sqlite(path: Path) -> None:
    """Refuse a damaged database before anything is written to it; create a private file."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as exc:
        state = str(exc)
    if state != "ok":
        raise UsageError(
            f"the ledger {path} is damaged ({state}): stop here, keep the file, and restore the "
            f"last backup over it (docs/operations.md); hosts report what they hold when they "
            f"reconnect"
        )


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if connection.dialect.name == "postgresql":
        # Managers that start at the same moment migrate one after the other; the connection's end
        # is the lock's.
        with connection.begin():
            number = connection.scalar(LEDGER_NUMBER)
            connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number ^ 1})
    with connection.begin():
        current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise UsageError(
            f"the ledger was created by a newer fastdl (schema {current}): start that version, "
            f"or restore the backup made before the upgrade"
        )
    command.upgrade(config, "head")
    if connection.in_transaction():
        connection.commit()


async def database_alive(ledger: Ledger) -> bool:
    """Whether the ledger can answer a query now (for the health page)."""
    try:
        async with asyncio.timeout(5), ledger.read() as tx:
            await tx.execute(text("SELECT 1"))
    except (FastdlError, TimeoutError, OSError):
        return False
    return True
