# SPDX-License-Identifier: Apache-2.0
"""Is ``bottleneck`` true? Each stage is made the slowest on purpose, by something real."""

from __future__ import annotations

import hashlib
from pathlib import Path

from benchmarks import runner
from benchmarks.rivals.fastdl import get_argv
from benchmarks.scenarios import MiB, parse_scenario
from tests.env.command import run_fastdl
from tests.env.nbd import nbdkit


def _bottleneck(paths: runner.Bench, home: Path, name: str, *options: str, target: str = "") -> str:
    with runner.prepared(paths, parse_scenario(name)) as job:
        words = list(get_argv(job, *options))
        words = words[words.index("get") :]
        if target:
            words[words.index("-o") + 1] = target
        done = run_fastdl(words, home=home)
    assert done.code == 0, done.stderr
    return str(done.json["bottleneck"])


def test_a_slow_link_is_named_network(paths: runner.Bench, tmp_path: Path) -> None:
    """Every stage behind the connections waits for bytes: none of them is to blame."""
    assert _bottleneck(paths, tmp_path, "http-40MBps-32MiB-raw-file-sha256") == "network"


def test_a_slow_digest_is_named_hash(paths: runner.Bench, tmp_path: Path) -> None:
    """MD5 is one ordered stream of half SHA-256's rate: loopback and no target wait for it."""
    name = "http-256MiB-raw-null-none"
    path = paths.files / paths.payload(parse_scenario(name)).name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    assert _bottleneck(paths, tmp_path, name, "--checksum", f"md5:{digest}") == "hash"


def test_a_slow_target_is_named_write(paths: runner.Bench, tmp_path: Path) -> None:
    """A server of disks that takes its time for every write is what the transfer waits for."""
    memory = ("memory", str(64 * MiB), "wdelay=500ms")
    with nbdkit(tmp_path, memory, filters=("delay",)) as server:
        assert (
            _bottleneck(paths, tmp_path, "http-64MiB-raw-file-sha256", target=server.uri) == "write"
        )
