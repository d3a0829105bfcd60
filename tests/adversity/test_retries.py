# SPDX-License-Identifier: Apache-2.0
"""How long is a source asked again that has gone away?"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, run
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(29, 24 * MIB)
AWAY_S = 6.0
"""Longer than the five tries that are made without being asked for more."""


class Restarting:
    """An origin at a port of its own that goes away and comes back."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/i"
        self._stack = contextlib.ExitStack()
        self.left = threading.Event()

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        origin = FaultOrigin({"/i": self._resource}, listener=listener)
        origin.on_sent = self._sent
        self._stack.enter_context(origin)

    def _sent(self, total: int) -> None:
        if total > len(self._resource.version.content) // 3:
            self.left.set()

    def stop(self) -> None:
        self._stack.close()

    def go_away(self, seconds: float) -> None:
        """After a third of the bytes, for so long."""
        assert self.left.wait(20)
        self.stop()
        time.sleep(seconds)
        self._resource.rules.clear()
        self.start()


@contextlib.contextmanager
def restarting(content: bytes, *, away: float) -> Iterator[Restarting]:
    origin = Restarting(Resource.of(content, rules=[Rule(rate=8e6)]))
    origin.start()
    thread = threading.Thread(target=origin.go_away, args=(away,))
    thread.start()
    try:
        yield origin
    finally:
        thread.join()
        origin.stop()


def get(tmp_path: Path, url: str, target: Path | str, *more: str) -> Outcome:
    words = ["get", url, "-o", str(target), "--json", "--progress", "none", *more]
    return run_fastdl(words, home=tmp_path / "home", timeout=60)


@pytest.mark.parametrize("more", [("--retry-time", "60"), ("--retry", "20")], ids=["time", "count"])
def test_a_download_goes_on_when_its_only_source_comes_back(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    target = tmp_path / "target"
    with restarting(CONTENT, away=AWAY_S) as origin:
        done = get(tmp_path, origin.url, target, *more)
    assert done.code == 0, done
    assert target.read_bytes() == CONTENT
    assert done.json["fetched_bytes"] < len(CONTENT) * 1.3


def test_an_image_that_is_converted_goes_on_too(tmp_path: Path) -> None:
    if not HAVE_QEMU:
        pytest.skip(NEED_QEMU)
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(CONTENT)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    with (
        restarting(image.read_bytes(), away=AWAY_S) as origin,
        loop_device(tmp_path, size=len(CONTENT)) as device,
    ):
        done = get(tmp_path, origin.url, device.path, "--retry-time", "60")
        assert done.code == 0, done
        assert device.read() == CONTENT


def test_a_source_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    origin = Restarting(Resource.of(CONTENT))
    timer = threading.Timer(AWAY_S + 1, origin.start)
    timer.start()
    try:
        done = get(tmp_path, origin.url, tmp_path / "target", "--retry-time", "60")
    finally:
        timer.join()
        origin.stop()
    assert done.code == 0, done


@pytest.mark.parametrize(
    ("more", "least", "most"),
    [
        (("--retry-time", "2"), 2.0, 8.0),
        (("--retry-time", "30", "--retry", "2"), 0.0, 8.0),
        (("--retry", "3", "--retry-delay", "1"), 3.0, 9.0),
    ],
    ids=["time", "either", "delay"],
)
def test_who_does_not_come_back_is_given_up(
    tmp_path: Path, more: tuple[str, ...], least: float, most: float
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    begun = time.monotonic()
    failed = get(tmp_path, f"http://127.0.0.1:{port}/i", tmp_path / "target", *more)
    assert (failed.code, failed.classes) == (10, ["NET"]), failed
    assert least <= time.monotonic() - begun <= most


def test_who_goes_away_for_good_is_given_up_in_time_and_resumed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    origin = Restarting(Resource.of(CONTENT, rules=[Rule(rate=8e6)]))
    origin.start()
    leaving = threading.Thread(target=lambda: (origin.left.wait(20), origin.stop()))
    leaving.start()
    begun = time.monotonic()
    failed = get(tmp_path, origin.url, target, "--retry-time", "4")
    took = time.monotonic() - begun
    leaving.join()
    assert (failed.code, failed.classes) == (10, ["NET"]), failed
    assert 4 <= took <= 20
    origin = Restarting(Resource.of(CONTENT))
    origin.port = int(failed.json["error"]["origin"].rpartition(":")[2].split("/")[0])
    origin.start()
    done = get(tmp_path, f"http://127.0.0.1:{origin.port}/i", target)
    origin.stop()
    assert done.code == 0, done
    assert done.json["resumed_bytes"] > MIB
