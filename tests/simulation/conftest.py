# SPDX-License-Identifier: Apache-2.0
"""The simulation computes; it need not wait for disks and threads."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite.core
import pytest


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory, with SQLite called in the loop's own thread.

    The statements are the same; each just saves two thread switches and its share of fsync,
    which is most of what 30,000 of them cost.
    """

    async def inline(_self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    monkeypatch.setattr(aiosqlite.core.Connection, "_execute", inline)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, check_same_thread=False))
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as found:
        yield Path(found)
