# SPDX-License-Identifier: Apache-2.0
"""A statement is one call of SQLite's thread, and leaves nothing open there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest import mock

import aiosqlite
import pytest

from fastdl.manager.ledger import zones
from fastdl.manager.ledger.engine import default_url, open_ledger


async def test_a_statement_is_one_call_of_the_thread(tmp_path: Path) -> None:
    """Not one each for the cursor, the statement, its rows and the end."""
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))
    await ledger.write(lambda tx: zones.create(tx, "one", now=1.0))
    calls: list[Any] = []
    execute = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, function: Any, *given: Any) -> Any:
        calls.append(function)
        return await execute(self, function, *given)

    async with ledger.read() as tx:
        await zones.all_zones(tx)
        with mock.patch.object(aiosqlite.Connection, "_execute", counted):
            assert [zone.name for zone in await zones.all_zones(tx)] == ["one"]
    await ledger.close()
    assert len(calls) == 1


async def test_a_work_alone_is_undone_as_a_whole(tmp_path: Path) -> None:
    """It has no savepoint of its own: its failure ends the transaction, and the next one begins."""
    ledger = await asyncio.to_thread(open_ledger, default_url(tmp_path))

    async def fails(tx: Any) -> None:
        await zones.create(tx, "lost", now=1.0)
        raise LookupError

    for number in range(3):
        with pytest.raises(LookupError):
            await ledger.write(fails)
        await ledger.write(lambda tx, n=number: zones.create(tx, f"z{n}", now=1.0))
    async with ledger.read() as tx:
        assert {zone.name for zone in await zones.all_zones(tx)} == {"z0", "z1", "z2"}
    await ledger.close()
