# SPDX-License-Identifier: Apache-2.0
"""What do the agent's tests share? An agent process, its manager, and an origin of templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.agent_process import Process, running, templates
from tests.env.origin import FaultOrigin
from tests.env.wire_manager import WireManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[WireManager]:
    """The other side of the wire."""
    with WireManager(tmp_path / "manager") as one:
        yield one


@pytest.fixture
def agent(tmp_path: Path, manager: WireManager) -> Iterator[Process]:
    """A started agent."""
    with running(tmp_path / "agent", manager) as one:
        yield one


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with a template of 24 MiB and one of 1 MiB."""
    with templates() as server:
        yield server
