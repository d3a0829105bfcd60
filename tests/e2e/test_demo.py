# SPDX-License-Identifier: Apache-2.0
"""Does the demo do what it says, and leave nothing? As a newcomer starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastdl.cli.demo_machine import LINE
from tests.env import libvirtd
from tests.env.machines import enterable

DEMO = [
    sys.executable,
    "-c",
    "from fastdl.cli.main import entry; raise SystemExit(entry())",
    "demo",
]


@pytest.fixture
def around(tmp_path: Path) -> Any:
    """The demo's own temporary folder, below one that QEMU can enter, and what it started."""
    with enterable() as folder:
        yield {**os.environ, "TMPDIR": str(folder)}, folder


def _start(env: dict[str, str], log: Path, *words: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen([*DEMO, "--size", "4M", *words], stdout=out, stderr=out, env=env)


def _left(folder: Path) -> list[str]:
    """What is left of a demo in *folder*: files, processes, loop devices."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in process.read_bytes().decode(errors="replace"):
                found.append(process.parent.name)
        except OSError:
            pass
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if str(folder) in backing.read_text():
                found.append(str(backing))
        except OSError:
            pass
    return found


def test_from_nothing_to_nothing(around: Any, tmp_path: Path) -> None:
    """Each step, with the guest's line where this machine can run one."""
    env, folder = around
    with libvirtd.running(tmp_path):
        process = _start(env, tmp_path / "log")
        code = process.wait(180)
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert f"the guest says: {LINE}" in said
    assert "pool1: DONE 100 %" in said
    assert "device: DONE 100 %" in said
    assert "Every step did what it should." in said
    assert not _left(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kept_until_it_is_ended(around: Any, tmp_path: Path, number: signal.Signals) -> None:
    """It stays, with its page; a request to end leaves nothing."""
    env, folder = around
    log = tmp_path / "log"
    with libvirtd.running(tmp_path):
        _keep_and_end(env, log, number)
    assert not _left(folder)


def _keep_and_end(env: dict[str, str], log: Path, number: signal.Signals) -> None:
    process = _start(env, log, "--keep")
    try:
        deadline = time.monotonic() + 180
        while "until you press Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        assert "The page: http" in log.read_text()
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.terminate()  # with its machine; a demo that is killed leaves it to libvirt
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
