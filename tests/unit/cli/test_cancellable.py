# SPDX-License-Identifier: Apache-2.0
"""Does a signal end a real ``fastdl get`` cleanly, while it waits for a silent mirror?"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.cli.cancellable import run_cancellable
from fastdl.errors import NetError
from tests.env.command import Running


@contextlib.contextmanager
def waiting(tmp_path: Path, *prefix: str) -> Iterator[Running]:
    """``fastdl get`` at the point where its request was sent and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as mirror:
        mirror.settimeout(30)
        url = f"http://127.0.0.1:{mirror.getsockname()[1]}/image.raw"
        words = ["get", url, "-o", str(tmp_path / "image.raw")]
        run = Running(words, home=tmp_path / "home", prefix=prefix)
        try:
            connection, _ = mirror.accept()
            with connection:
                connection.settimeout(30)
                assert connection.recv(4096).startswith(b"GET /image.raw")
                yield run
        finally:
            if run.process.returncode is None:
                run.send(signal.SIGKILL)
                run.process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_waiting_get_with_130_and_one_sentence(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C must not need the mirror's help, nor print a traceback, nor leave a file."""
    # The tests themselves may run under nohup.
    with waiting(tmp_path, "env", f"--default-signal={number.name[3:]}") as run:
        run.send(number)
        done = run.finish(timeout=30)
    assert (done.code, done.classes) == (130, ["CANCELLED"])
    assert number.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "image.raw").exists()


def test_a_get_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    """nohup ignores the hang-up signal for its command; the command must not undo that."""
    with waiting(tmp_path, "env", "--ignore-signal=HUP") as run:
        run.send(signal.SIGHUP)
        run.send(signal.SIGTERM)
        done = run.finish(timeout=30)
    assert (done.code, "SIGTERM" in done.stderr) == (130, True), done


def test_the_result_and_the_error_of_the_work_come_through() -> None:
    """The work runs in another thread; its caller must not notice."""
    assert run_cancellable(lambda cancel: not cancel.cancelled)

    def fail(_cancel: object) -> None:
        raise NetError("no route")

    with pytest.raises(NetError, match="no route"):
        run_cancellable(fail)


def test_signal_handlers_are_restored() -> None:
    """A program that calls this keeps its own handlers."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    run_cancellable(lambda _cancel: None)
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert before == after
