# SPDX-License-Identifier: Apache-2.0
"""Does a cluster of three NATS servers lose one, and nothing that was said?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdl.manager.fabric import RESYNC
from tests.env import nats
from tests.env.seats import fabric, listening, until

pytestmark = pytest.mark.skipif(
    "FASTDL_MANAGERS" not in os.environ, reason="takes minutes: scripts/test-managers"
)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_cluster_loses_a_server_and_no_message(tmp_path: Path, which: int) -> None:
    """Whichever it is, the one that all managers use among them: they go to another, and what was
    said meanwhile is there."""
    with nats.cluster(tmp_path) as servers:
        url = "nats://" + ",".join(server.address for server in servers)
        a, b = fabric(url, "a"), fabric(url, "b")
        async with listening(a, b, within=30) as (_, heard):
            a.notify("post", "h1")
            await until(lambda: ("post", "h1") in heard)
            servers[which].kill()
            a.notify("post", "h2")
            await until(lambda: bool({("post", "h2"), (RESYNC,)} & set(heard)), within=30)
            a.notify("post", "h3")
            await until(lambda: ("post", "h3") in heard, within=30)
