# SPDX-License-Identifier: Apache-2.0
"""How much does a connection ask for at once? As the origin's log has it, no clock involved."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.rivals.fastdl import get_argv
from benchmarks.scenarios import parse_scenario
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1024 * 1024
BLOCKS = 96


@pytest.mark.parametrize(
    ("connections", "most_alone"), [("8conn-", BLOCKS // 8), ("", 16)], ids=["eight", "defaults"]
)
def test_over_distance_a_connection_begins_with_a_block_and_goes_on_with_runs(
    paths: runner.Bench, tmp_path: Path, connections: str, most_alone: int
) -> None:
    """Each run waits a round trip for its answer: runs of a block would wait at every block.

    An address of the site's own is given up to sixteen connections.
    """
    scenario = parse_scenario(f"http-{connections}100ms-{BLOCKS}MiB-raw-file-sha256")
    paths.origin.forget_requests()
    with runner.prepared(paths, scenario) as job:
        words = get_argv(job)
        done = run_fastdl(words[words.index("get") :], home=tmp_path / "home")
        job.target.wipe()
    assert done.code == 0, done
    lengths = [request.body_bytes for request in paths.origin.requests()]
    alone = [length for length in lengths if length <= MIB]
    assert len(alone) <= most_alone, lengths
    assert len(lengths) <= BLOCKS // 3, lengths
    assert sum(lengths) < BLOCKS * MIB * 9 // 8, lengths


@pytest.mark.parametrize("connections", ["8", "4"])
def test_a_trickling_mirror_is_asked_for_a_block_at_a_time(
    tmp_path: Path, connections: str
) -> None:
    """What a connection has claimed nobody else fetches: a slow one must not claim much."""
    content = pseudo_random(61, 16 * MIB)
    resource = Resource.of(content, rules=[Rule(rate=4 * MIB)])
    check = f"sha-256:{hashlib.sha256(content).hexdigest()}"
    words = ["--checksum", check, "--max-connections", connections]
    words += ["--max-connections-per-origin", connections]
    with FaultOrigin({"/i.raw": resource}) as server:
        done = run_fastdl(
            ["get", server.url("/i.raw"), "-o", str(tmp_path / "i.raw"), *words],
            home=tmp_path / "home",
        )
        assert done.code == 0, done
        ranges = [request.range for request in server.requests_of("/i.raw")]
    assert len(ranges) >= 16
    for wanted in ranges:
        assert wanted is not None
        first, last = wanted
        assert first is not None
        assert last is not None
        assert last - first < MIB, ranges
