# SPDX-License-Identifier: Apache-2.0
"""Is what a person sees on a terminal true? A real one: a pty."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.faults import Rule, When
from tests.env.here import Here
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
RATE = re.compile(r"([0-9.]+) (B|KiB|MiB)/s")
UNITS = {"B": 1, "KiB": 1024, "MiB": MIB}


class Screen:
    """What a command writes to its terminal of 120 columns."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self.process = process
        self.text = ""

    def read(self, seconds: float = 0.2) -> bool:
        """Take in what comes; False at the end."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the command has gone
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        """The first match in what has been written; the terminal is read until it is there."""
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.text)) is None:
            assert time.monotonic() < until, self.text
            assert self.read() or re.search(pattern, self.text), self.text
        return found

    def finish(self, seconds: float = 60) -> int:
        until = time.monotonic() + seconds
        while self.read():
            assert time.monotonic() < until, self.text
        return self.process.wait(timeout=20)

    @property
    def lines(self) -> list[str]:
        """Every line as it was drawn, in order."""
        plain = re.sub(r"\x1b\[[0-9]*[A-Z]", "", self.text)
        return [line for line in re.split(r"[\r\n]+", plain) if line]


@contextlib.contextmanager
def screen(here: Here, *words: str) -> Iterator[Screen]:
    """``fastdl get WORDS…`` on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environ |= {"TERM": "xterm", "XDG_STATE_HOME": str(here.home), "HOME": str(here.home)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdl", "get", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=here.path,
        env=environ,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Screen(ours, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def rates(lines: list[str]) -> list[float]:
    """The rates that were shown, in bytes/s, the averages left out."""
    found = [RATE.search(line) for line in lines if "avg" in line]
    return [float(m[1]) * UNITS[m[2]] for m in found if m]


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_silent_server_is_named(here: Here) -> None:
    """Before the first byte it shows whom it waits for, and for how long already."""
    rules = [Rule(when=When(), silent=True)]
    with (
        FaultOrigin({"/disk.img": Resource.of(b"x", rules=rules)}) as origin,
        screen(here, origin.url("/disk.img"), "--stall-timeout", "60") as shown,
    ):
        host = origin.url("/").split("/")[2]
        shown.wait_for(rf"disk\.img  waiting for {host}: a response \([2-9]s\)")
        shown.process.send_signal(signal.SIGINT)
        assert shown.finish() == 130


def test_a_refusing_server_is_named(here: Here) -> None:
    """While it waits to try again it says why."""
    rules = [Rule(when=When(), status=503, set={"Retry-After": "3"})]
    with (
        FaultOrigin({"/disk.img": Resource.of(b"x", rules=rules)}) as origin,
        screen(here, origin.url("/disk.img"), "--retry", "1") as shown,
    ):
        shown.wait_for(r"waiting for [0-9.:]+: the next try, in 3\.0s \(.*503")
        assert shown.finish() == 11


def test_a_slow_transfer_shows_its_rate(here: Here) -> None:
    """300 KiB/s are shown as that from the first second on, and bytes as they come."""
    rules = [Rule(when=When(), rate=300 * 1024)]
    content = pseudo_random(1, 2 * MIB)
    with (
        FaultOrigin({"/disk.img": Resource.of(content, rules=rules)}) as origin,
        screen(here, origin.url("/disk.img"), "--max-connections=1") as shown,
    ):
        assert shown.finish() == 0
    shares = [int(m[1]) for m in re.finditer(r" (\d+)% \[", shown.text)]
    assert shares == sorted(shares)
    assert len(set(shares)) > 8  # it moves, not in steps of a block
    seen = rates(shown.lines)
    assert len(seen) > 10
    late = sorted(seen[len(seen) // 3 :])
    assert 200 * 1024 < late[len(late) // 2] < 450 * 1024, seen
    assert max(seen) < 4 * MIB, seen


def test_old_bytes_are_no_rate(here: Here) -> None:
    """A resumed download shows what is there at once, and the rate of what comes now."""
    content = pseudo_random(2, 24 * MIB)
    slow = Rule(when=When(), rate=2 * MIB)
    with FaultOrigin({"/disk.img": Resource.of(content, rules=[slow])}) as origin:
        words = (origin.url("/disk.img"), "--max-connections=2", "--block-size=64K")
        with screen(here, *words) as first:
            origin.wait_for(lambda: origin.sent > 14 * MIB, timeout=60)
            first.process.send_signal(signal.SIGINT)
            assert first.finish() == 130
        with screen(here, *words) as shown:
            assert shown.finish() == 0
    assert "resumed" in shown.text
    seen = rates(shown.lines)
    assert seen
    # Two connections of 2 MiB/s; a rate that counted the old 12 MiB would show more.
    assert max(seen[2:]) < 8 * MIB, seen


def test_the_last_line_stays(here: Here) -> None:
    """Below it stands the result, and nothing erases it."""
    rules = [Rule(when=When(), rate=2 * MIB)]
    content = pseudo_random(1, 2 * MIB)
    with (
        FaultOrigin({"/disk.img": Resource.of(content, rules=rules)}) as origin,
        screen(here, origin.url("/disk.img"), "--max-connections=1") as shown,
    ):
        assert shown.finish() == 0
    at = next(i for i, line in enumerate(shown.lines) if line.startswith("disk.img: "))
    bars = [line for line in shown.lines[:at] if line.startswith("disk.img  ")]
    assert re.search(r"100% .*2\.0 MiB  average [0-9.]+ MiB/s  in [0-9.]+s", bars[-1])
    assert "\x1b[J" not in shown.text[shown.text.rindex("100% ") :].split("\n", 1)[1][3:]


def test_several_files_have_a_line_each(here: Here) -> None:
    """And a total; a name cannot move the cursor."""
    rules = [Rule(when=When(), rate=1 * MIB)]
    content = pseudo_random(1, 2 * MIB)
    names = ["/a.img", "/b%1b%5b2J.img"]
    with (
        FaultOrigin({name: Resource.of(content, rules=rules) for name in names}) as origin,
        screen(here, "-Z", *(origin.url(name) for name in names)) as shown,
    ):
        code = shown.finish()
    assert code == 2  # the second name is none
    assert any(line.startswith("a.img  ") for line in shown.lines)
    assert any(re.match(r"total: [01] of 2 files, ", line) for line in shown.lines)
    assert any(line.startswith("1 of 2 files") for line in shown.lines)
    assert "\x1b[2J" not in shown.text


@pytest.mark.parametrize("word", ["-q", "--progress=none"])
def test_nothing_is_drawn(here: Here, word: str) -> None:
    """Where nobody wants it."""
    rules = [Rule(when=When(), rate=1 * MIB)]
    content = pseudo_random(1, 1 * MIB)
    with (
        FaultOrigin({"/disk.img": Resource.of(content, rules=rules)}) as origin,
        screen(here, word, origin.url("/disk.img")) as shown,
    ):
        assert shown.finish() == 0
    assert "\x1b" not in shown.text
