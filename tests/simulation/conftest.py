# SPDX-License-Identifier: Apache-2.0
"""The simulation computes; it need not wait for disks and threads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.simulating.loop import sqlite_in_the_loop


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, with SQLite called in the loop's own thread.

    The statements are the same; each just saves two thread switches and its share of fsync,
    which is most of what 30,000 of them cost.
    """
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with sqlite_in_the_loop(), tempfile.TemporaryDirectory(dir=memory) as found:
        yield Path(found)
