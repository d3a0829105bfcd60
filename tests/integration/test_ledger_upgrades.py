# SPDX-License-Identifier: Apache-2.0
"""Does this version upgrade the ledgers of earlier ones?

``tests/vectors/ledgers`` has an empty ledger of each schema that was in use, by the number of its
newest migration; ``0001-machines`` is of the days in which the first migration also made the table
of virtual machines. ``scripts/try-upgrade`` does the same with real programs and data.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.manager.ledger import engine, tables, zones
from fastdl.manager.ledger.engine import Ledger, default_url, driver_url, open_ledger

LEDGERS = sorted((Path(__file__).parents[1] / "vectors/ledgers").glob("*.sql"))
VERSIONS = sorted(p.name[:4] for p in Path(engine.__file__).parent.glob("migrations/versions/0*"))
ZONE = "INSERT INTO zone (id, name, enabled, created) VALUES ('z', 'z1', true, 1.0)"


async def is_of_this_version(ledger: Ledger) -> None:
    """Its tables are the declared ones, and the zone is there."""

    def compare(connection: Connection) -> Any:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, tables.metadata)

    async with ledger.read() as tx:
        assert await tx.run_sync(compare) == []
        assert [zone.name for zone in await zones.all_zones(tx)] == ["z1"]


@pytest.mark.parametrize("kept", LEDGERS, ids=lambda path: path.stem)
async def test_a_ledger_of_an_earlier_version_is_upgraded(kept: Path, tmp_path: Path) -> None:
    """What a migration did when it was in use counts, not what its file says today."""
    with contextlib.closing(sqlite3.connect(tmp_path / "manager.db")) as connection:
        connection.executescript(kept.read_text())
        connection.execute(ZONE)
        connection.commit()
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    try:
        await is_of_this_version(ledger)
    finally:
        await ledger.close()


@pytest.mark.parametrize("schema", VERSIONS)
async def test_each_schema_is_upgraded_on_both_databases(
    database: str | None, tmp_path: Path, schema: str
) -> None:
    """A ledger that stopped at any migration goes on from there."""
    url = database or default_url(tmp_path)

    def stop_at(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(engine.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
        connection.execute(text(ZONE))
        connection.commit()

    made = create_async_engine(
        driver_url(url) if database else url.replace("sqlite:", "sqlite+aiosqlite:")
    )
    async with made.connect() as connection:
        await connection.run_sync(stop_at)
    await made.dispose()
    ledger = await asyncio.to_thread(open_ledger, url)
    try:
        await is_of_this_version(ledger)
    finally:
        await ledger.close()
