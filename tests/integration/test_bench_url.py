# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl bench --url`` measure a user's place, tell the truth, and leave nothing?"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.command import run_fastdl, running_fastdl
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(51, 6 * MIB + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TOOLS = [name for name in ("curl", "wget", "wget2", "aria2c") if shutil.which(name)]


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/i": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def test_installed_tools_are_compared(origin: FaultOrigin, place: Path, tmp_path: Path) -> None:
    """Each copy by its digest; the report says so, and the folder is as it was."""
    report = tmp_path / "report.md"
    names = ",".join(TOOLS)
    words = ["bench", "--url", origin.url("/i"), "--target", str(place), "--rounds", "1"]
    words += ["--tools", names, "--json", "--report-file", str(report)]
    done = run_fastdl(words, home=tmp_path, timeout=100)
    assert done.code == 0, done.stderr
    found = done.json
    assert (found["size"], found["sha256"]) == (len(CONTENT), SHA256)
    assert set(found["tools"]) == {"fastdl", *TOOLS}
    for runs in found["tools"].values():
        assert [run["failure"] for run in runs] == [None]
    assert found["limit"]
    assert SHA256 in report.read_text()
    assert list(place.iterdir()) == []


def test_a_wrong_copy_is_named(origin: FaultOrigin, place: Path, tmp_path: Path) -> None:
    """A mirror that sends curl one wrong byte: the run does not count."""
    if "curl" not in TOOLS:
        pytest.skip("curl is not installed")
    origin.resources["/i"].rules.append(Rule(when=When(ranged=False), corrupt=5))
    words = ["bench", "--url", origin.url("/i"), "--target", str(place), "--rounds", "1"]
    words += ["--tools", "curl", "--json", "--checksum", f"sha-256:{SHA256}"]
    done = run_fastdl(words, home=tmp_path, timeout=60)
    assert done.code == 0, done.stderr
    assert "wrong copy" in json.dumps(done.json["tools"]["curl"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_interrupted(
    origin: FaultOrigin, place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Nothing is left: no folder, no process that goes on."""
    origin.resources["/i"].rules.append(Rule(rate=1e5))
    words = ["bench", "--url", origin.url("/i"), "--target", str(place)]
    with running_fastdl(words, home=tmp_path) as running:
        origin.wait_for(lambda: origin.sent > 50_000, timeout=40)
        running.send(number)
        done = running.finish(timeout=30)
    assert done.code == 130
    assert list(place.iterdir()) == []
    end = time.monotonic() + 10
    while _with(str(place)) and time.monotonic() < end:
        time.sleep(0.02)
    assert _with(str(place)) == []


def _with(word: str) -> list[int]:
    """The processes, but ours, that have *word* on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--url", "ORIGIN"], 2, "needs a --target"),
        (["--url", "ORIGIN", "--target", "/no/such/place"], 2, "cannot be used"),
        (["--url", "ORIGIN", "--target", "/dev/null"], 2, "folder or a block device"),
        (["--url", "/etc/passwd", "--target", "."], 2, "http and https"),
        (["--url", "ORIGIN", "--target", ".", "--tools", "nothing"], 2, "no tool"),
        (["--url", "ORIGIN", "--target", ".", "--rounds", "0"], 2, "1 to 100"),
        (["--url", "ORIGIN", "--target", ".", "--checksum", "md5:" + "0" * 32], 2, "SHA-256"),
        (["--url", "ORIGIN", "--target", ".", "--checksum", "sha-256:" + "0" * 64], 21, "sha-256"),
    ],
)
def test_wrong_words_are_refused(
    origin: FaultOrigin, place: Path, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    made = [origin.url("/i") if word == "ORIGIN" else word for word in words]
    made = [str(place) if word == "." else word for word in made]
    done = run_fastdl(["bench", *made], home=tmp_path)
    assert (done.code, sentence in done.stderr) == (code, True), str(done)
    assert list(place.iterdir()) == []
