# SPDX-License-Identifier: Apache-2.0
"""Does a run that is killed leave a database server behind?"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.env import postgresql

RUN = """
import sys, time
from tests.env import postgresql
with postgresql.mortal_server() as server:
    if sys.argv[1] == "stopped":
        server.stop()
    print(server.folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_killed_run_leaves_no_server_and_no_folder(state: str, postgres: str) -> None:
    """SIGKILL is the worst of all ends: nothing of the run itself can clean up."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, state],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    folder = Path(run.stdout.readline().strip())
    found = folder / "data" / "postmaster.pid"
    server = Path("/proc") / found.read_text().split()[0] if state == "running" else None
    run.send_signal(signal.SIGKILL)
    run.wait(10)
    ends = time.monotonic() + 60
    while folder.exists() or (server is not None and server.exists()):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_the_servers_folder_is_removed_at_the_end(postgres: str) -> None:
    """Also when the test has failed."""
    with pytest.raises(ZeroDivisionError), postgresql.mortal_server() as server:
        raise ZeroDivisionError
    assert not server.folder.exists()
