# SPDX-License-Identifier: Apache-2.0
"""How soon does another manager dispatch, with NATS between them, when the one that did dies?"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fastdl.manager.ledger.engine import driver_url
from tests.env import nats, postgresql
from tests.env.process import ManagerProcess, eventually

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)

FAILOVER_S = 10.0


@pytest.fixture
async def engine(postgres: str) -> AsyncIterator[AsyncEngine]:
    """An empty database."""
    url = postgresql.fresh_database(postgres, "failover")
    made = create_async_engine(driver_url(url))
    yield made
    await made.dispose()


async def test_another_manager_dispatches_within_ten_seconds(
    tmp_path: Path, engine: AsyncEngine
) -> None:
    """kill -9 of the dispatching one of three; the NATS server is killed and wiped before, once."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def owner() -> str | None:
        query = "SELECT owner FROM lease WHERE name = 'dispatch' AND until > 0"
        async with engine.connect() as connection:
            found: str | None = await connection.scalar(text(query))
            return found

    with nats.server(tmp_path) as server:
        managers = [ManagerProcess(tmp_path, url, name=name) for name in "abc"]
        try:
            for number, process in enumerate(managers):
                if number:
                    process.state.mkdir(mode=0o700)
                    shutil.copy(managers[0].state / "secret.key", process.state)
                await process.start("--fabric", server.url)
            server.kill(wipe=True)
            server.start()

            async def all_hear() -> bool:
                return all(p.log().count("other managers are heard") >= 2 for p in managers)

            await eventually(all_hear)
            await asyncio.sleep(3)  # each says that it is alive
            leader = await owner()
            for process in managers:
                if (process.state / "instance").read_text() == leader:
                    await process.end(signal.SIGKILL)
            killed = time.monotonic()

            async def taken_over() -> bool:
                return await owner() not in {leader, None}

            await eventually(taken_over, within=60)
            gap = time.monotonic() - killed
            assert gap < FAILOVER_S, f"nobody dispatched for {gap:.1f} s"
            print(f"another manager dispatched after {gap:.1f} s")
            left = [process for process in managers if process.alive]
            assert len(left) == 2
            for process in left:
                assert await process.end(signal.SIGTERM) == 0
                assert "Traceback" not in process.log()
        finally:
            for process in managers:
                if process.alive:
                    await process.end(signal.SIGKILL)
