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
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.manager.ledger import engine, tables, zones
from fastdl.manager.ledger.engine import Ledger, default_url, driver_url, open_ledger

LEDGERS = sorted((Path(__file__).parents[1] / "vectors/ledgers").glob("*.sql"))
VERSIONS = sorted(p.name[:4] for p in Path(engine.__file__).parent.glob("migrations/versions/0*"))
SHARED_FROM = 6
"""The oldest schema whose managers may serve beside this version's, on one PostgreSQL. A migration
that takes something away comes a minor version after the last one that used it, and raises this."""
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


SHARED = [path for path in LEDGERS if path.stem.isdigit() and int(path.stem) >= SHARED_FROM]


@pytest.mark.parametrize("kept", SHARED, ids=lambda path: path.stem)
async def test_managers_of_an_earlier_schema_can_go_on(kept: Path, tmp_path: Path) -> None:
    """Expand, then contract: while managers are upgraded one after the other, the earlier ones read
    and write a ledger of the newest schema. Nothing that they name is gone, and nothing that they
    do not name is needed, unique or checked."""

    def shape(path: Path) -> dict[str, Any]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript("" if path.stat().st_size else kept.read_text())
        made = create_engine(f"sqlite:///{path}")
        try:
            found = inspect(made)
            return {
                name: {
                    "columns": {column["name"]: column for column in found.get_columns(name)},
                    "unique": [
                        *(sorted(c["column_names"]) for c in found.get_unique_constraints(name)),
                        *(
                            sorted(i["column_names"])
                            for i in found.get_indexes(name)
                            if i["unique"]
                        ),
                        *(sorted(f["constrained_columns"]) for f in found.get_foreign_keys(name)),
                    ],
                    "checks": [check["sqltext"] for check in found.get_check_constraints(name)],
                }
                for name in found.get_table_names()
            }
        finally:
            made.dispose()

    path = tmp_path / "manager.db"
    path.touch()
    before = shape(path)
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    await ledger.close()
    after = shape(path)
    for name, old in before.items():
        new = after.get(name)
        assert new is not None, f"{name} is gone"
        for column, was in old["columns"].items():
            now = new["columns"].get(column)
            assert now is not None, f"{name}.{column} is gone"
            assert str(now["type"]) == str(was["type"]), f"{name}.{column}"
            assert now["nullable"] or not was["nullable"], f"{name}.{column} is needed"
        for column in new["columns"].keys() - old["columns"].keys():
            added = new["columns"][column]
            assert added["nullable"] or added["default"] is not None, f"{name}.{column} is needed"
        for kind in ("unique", "checks"):
            more = [rule for rule in new[kind] if rule not in old[kind]]
            assert not more, f"{name}: {more}"
