# SPDX-License-Identifier: Apache-2.0
"""Does the whole end when its time is up, and go on from there?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.env import seam
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(23, 12 << 20)


@pytest.mark.parametrize("rule", [Rule(rate=1_500_000), Rule(stall_at=0)], ids=["slow", "silent"])
def test_what_takes_too_long_ends_with_10_and_resumes(tmp_path: Path, rule: Rule) -> None:
    """A stall limit does not end what goes on slowly; --max-time does, whatever it waits for."""
    target = tmp_path / "image"
    with FaultOrigin({"/i": Resource.of(CONTENT, rules=[rule])}) as origin:
        words = ["get", origin.url("/i"), "-o", str(target), "--json", "--progress", "none"]
        words += ["--max-connections", "1"]
        ended = run_fastdl([*words, "--max-time", "2"], home=tmp_path / "h", timeout=60)
        assert (ended.code, ended.classes) == (10, ["NET"]), ended
        assert ended.json["error"]["retryable"]
        assert "2 s" in ended.stderr
        assert not target.exists()
        origin.release.set()
        origin.resources["/i"].rules = []
        done = run_fastdl([*words, "--max-time", "60"], home=tmp_path / "h", timeout=60)
    assert done.code == 0, done
    assert target.read_bytes() == CONTENT
    if rule.stall_at is None:
        assert done.json["resumed_bytes"] > 0


def test_a_journal_whose_folder_cannot_be_flushed_is_an_error(tmp_path: Path) -> None:
    """The disk fails: a download onto it is not to begin."""
    pool = tmp_path / "pool"
    pool.mkdir()
    with FaultOrigin({"/i": Resource.of(CONTENT)}) as origin:
        words = ["get", origin.url("/i"), "-o", str(pool / "image"), "--json"]
        prefix = seam.loaded(nth=2, call="fsync", do="5", only=str(pool))
        done = run_fastdl(words, home=tmp_path / "h", prefix=prefix, timeout=60)
        assert (done.code, done.classes) == (31, ["SINK_IO"]), done
        assert list(pool.iterdir()) == []


def test_all_blocks_are_in_the_journal_before_the_target_shows(tmp_path: Path) -> None:
    """Killed between the last byte and the publication, a run has nothing to fetch again."""
    target = tmp_path / "image"
    with FaultOrigin({"/i": Resource.of(CONTENT)}) as origin:
        words = ["get", origin.url("/i"), "-o", str(target), "--json"]
        prefix = seam.loaded(nth=1, call="rename")
        killed = run_fastdl(words, home=tmp_path / "h", prefix=prefix, timeout=60)
        assert killed.code == -9
        done = run_fastdl(words, home=tmp_path / "h", timeout=60)
    assert done.code == 0, done
    assert target.read_bytes() == CONTENT
    # The first response brings a MiB before the journal is read.
    assert done.json["resumed_bytes"] >= len(CONTENT) - (2 << 20), done
