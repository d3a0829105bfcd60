# SPDX-License-Identifier: Apache-2.0
"""A line between network namespaces is as long as it says, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import line, origin, runner
from benchmarks.rivals.fastdl import RIVAL
from benchmarks.scenarios import parse_scenario


@pytest.fixture(autouse=True)
def possible() -> None:
    """Namespaces need root, and a kernel with tun devices."""
    if reason := line.missing() or origin.missing():
        pytest.skip(reason)


def test_a_round_trip_takes_what_was_asked_for(tmp_path: Path) -> None:
    """Figures over distance rest on the distance: the handshake alone is one round trip."""
    with runner.bench(tmp_path) as bench:
        scenario = parse_scenario("http-netns-60ms-20MBps-1MiB-raw-file-sha256")
        with runner.prepared(bench, scenario) as job:
            begin = time.monotonic()
            run = runner.run_once(bench, RIVAL, job, 0)
            taken = time.monotonic() - begin
    assert run.cost.failure is None
    assert taken > 2 * 0.06  # a connection, then a request
    assert run.sent_bytes >= scenario.size


def test_nothing_is_left_of_a_line() -> None:
    """Namespaces outlive a process: each that is forgotten is there until the next boot."""
    before = _namespaces()
    with line.between(rtt_s=0.01, rates=[0, 1_000_000]) as made:
        assert _namespaces() - before == {made.near, made.far}
        assert "tbf" in made.how
    assert made.process.returncode is not None
    assert _namespaces() == before


def _namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    mine = f"fastdl-bench-{os.getpid()}-"
    return {name for name in done.stdout.split() if name.startswith(mine)}
