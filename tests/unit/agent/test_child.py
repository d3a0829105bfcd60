# SPDX-License-Identifier: Apache-2.0
"""Is a confined process received as far as it may speak, and gone when nobody needs it?"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent import child as module
from fastdl.agent import child_messages, confine
from fastdl.agent.broker import can_broker
from fastdl.agent.child import Stop, confined
from fastdl.agent.confine import Powers
from fastdl.agent.confined import Channel
from fastdl.agent.reach import Reach
from fastdl.agent.supplies import supplies_for_confined
from fastdl.engine.options import FetchOptions
from fastdl.errors import Cancelled, ConfinementError, FormatError, InternalError

POWERS = Powers(ids=(66_001, 66_001) if os.geteuid() == 0 else None)
JUDGED = {"inspected": {"format": "raw", "virtual_size": None}}


@pytest.fixture
def stop() -> Iterator[tuple[Stop, Callable[[], None]]]:
    """Whether the job is wanted, and how to stop it."""
    old = signal.getsignal(signal.SIGTERM)
    pipe, end = os.pipe()
    open_ends = [end]
    yield Stop(pipe), lambda: os.close(open_ends.pop())
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, old)
    for fd in (pipe, *open_ends):
        os.close(fd)


def _messages_of(
    work: Callable[[Channel], None], stop: Any, **more: Any
) -> list[child_messages.Message]:
    with confined(work, POWERS, required=False, **more) as child:
        pid = child._pid
        try:
            return list(child.receive(stop[0]))
        finally:
            child.end()
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_it_is_heard_up_to_its_last_message_and_no_further(stop: Any) -> None:
    """A second result could pass for another one's."""

    def work(channel: Channel) -> None:
        channel.send({"begun": 7})
        channel.send(JUDGED)
        channel.send({"inspected": {"format": "qcow2", "virtual_size": 1}})

    assert _messages_of(work, stop) == [
        child_messages.Begun(7),
        child_messages.Inspected("raw", None),
    ]


def test_an_error_of_its_work_is_said_with_its_class(stop: Any) -> None:
    """And whether what landed is worth a resume."""

    def work(_: Channel) -> None:
        raise FormatError("no image", phase="decode")

    (message,) = _messages_of(work, stop, keep=lambda: True)
    assert isinstance(message, child_messages.Failed)
    assert (message.error["code"], message.error["phase"], message.keep) == (23, "decode", True)


@pytest.mark.parametrize(
    "words",
    [
        b"rubbish\n",
        b'{"confined":{"missing":[],"listener":null}}\n',
        b"x" * (child_messages.LINE_MAX + 2),
        b'{"begun":"1"}\n',
    ],
    ids=["rubbish", "out of order", "no end of line", "another type"],
)
def test_one_that_says_what_it_may_not_is_ended(stop: Any, words: bytes) -> None:
    """It was taken over; nothing that it says is of use any more."""

    def work(_: Channel) -> None:
        left = words
        while left:
            left = left[os.write(1, left) :]
        time.sleep(60)

    with pytest.raises(InternalError, match="sent an invalid message") as caught:
        _messages_of(work, stop)
    assert not caught.value.retryable


def test_the_last_words_of_a_crash_are_for_the_log(
    stop: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """What glibc says when it aborts is what maintainers need; an attacker's words must not reach
    whoever named the source, as the error does."""

    def work(_: Channel) -> None:
        os.write(2, b"free(): invalid\x1b pointer\n")
        os.abort()

    with pytest.raises(InternalError, match=r"SIGABRT$"):
        _messages_of(work, stop)
    assert capfd.readouterr().err == "a confined download says: free(): invalid  pointer\n"


@pytest.mark.skipif(not can_broker(), reason="this kernel hands no system calls over")
def test_one_that_ended_before_it_was_read_is_read_to_its_end(stop: Any) -> None:
    """A stop can come before its first message is read; why it ended is in the next one."""
    reach = Reach(("http://127.0.0.1/",), FetchOptions())
    with confined(lambda _: None, POWERS, required=False, reach=reach) as child:
        os.close(child._replies)
        child._replies = -1
        os.waitid(os.P_PID, child._pid, os.WEXITED | os.WNOWAIT)
        (message,) = child.receive(stop[0])
    assert isinstance(message, child_messages.Failed)
    assert message.error["class"] == "CANCELLED"


def test_one_that_floods_is_stopped_like_any_other(
    stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it spoke without a pause, nobody looked whether the job was still wanted."""
    monkeypatch.setattr(module, "_GRACE_S", 0.5)
    line = json.dumps({"begun": 1}).encode() + b"\n"

    def work(_: Channel) -> None:
        while True:
            os.write(1, line * 4096)

    received = 0

    def hear_out(child: module.Child) -> None:
        nonlocal received
        for _ in child.receive(stop[0]):
            received += 1
            if received == 10_000:
                stop[1]()

    with confined(work, POWERS, required=False) as child:
        began = time.monotonic()
        with pytest.raises(Cancelled):
            hear_out(child)
        assert time.monotonic() - began < 30
    assert received > 10_000


@pytest.mark.skipif(not can_broker(), reason="nobody may look into processes here")
def test_what_is_no_socket_costs_its_broker_nothing(stop: Any) -> None:
    """A descriptor that stayed open each time would leave none to publish or clean up with."""

    def work(channel: Channel) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        address = struct.pack("=H2s4s8x", socket.AF_INET, b"\0\x50", bytes((8, 8, 8, 8)))
        for _ in range(300):
            assert libc.connect(0, address, 16) == -1
            assert ctypes.get_errno() == errno.ENOTSOCK
        channel.send(JUDGED)

    reach = Reach(["http://8.8.8.8/x"], FetchOptions.build(policy="strict"))
    with confined(work, POWERS, required=False, reach=reach) as child:
        messages = child.receive(stop[0])
        before = len(os.listdir("/proc/self/fd"))
        assert next(messages) == child_messages.Inspected("raw", None)
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # the broker's own


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener whose queue is full: connecting to it takes until it accepts somebody."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener
        for client in clients:
            client.close()


def _reach_of(listener: socket.socket) -> Reach:
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    return Reach([url], FetchOptions.build(policy="user"))


@pytest.mark.skipif(not can_broker(), reason="nobody may look into processes here")
def test_no_connection_keeps_its_broker_waiting(stop: Any, silent: socket.socket) -> None:
    """Whatever becomes of the socket's mode meanwhile: a job that nobody wants ends at once."""

    address = silent.getsockname()

    def work(channel: Channel) -> None:
        stopped = channel.cancel

        def connect(sock: socket.socket) -> None:
            while not stopped.cancelled:
                sock.connect_ex(address)

        def flip(sock: socket.socket) -> None:
            while not stopped.cancelled:
                for blocking in (False, True):
                    os.set_blocking(sock.fileno(), blocking)

        for _ in range(2):
            sock = socket.socket()
            for attack in (connect, flip):
                threading.Thread(target=attack, args=(sock,), daemon=True).start()
        time.sleep(0.3)
        channel.send({"begun": 1})
        while not stopped.cancelled:
            time.sleep(0.01)
        stopped.check()

    with confined(work, POWERS, required=False, reach=_reach_of(silent)) as child:
        heard = child.receive(stop[0])
        assert next(heard) == child_messages.Begun(1)
        stop[1]()
        began = time.monotonic()
        (last,) = heard
    assert isinstance(last, child_messages.Failed)
    assert time.monotonic() - began < 2


@pytest.mark.skipif(not can_broker(), reason="nobody may look into processes here")
def test_a_call_that_may_wait_waits_for_its_connection(stop: Any, silent: socket.socket) -> None:
    """As the resolver's do; and a refusal is what the call ends with."""

    address = silent.getsockname()

    def work(channel: Channel) -> None:
        with socket.socket() as sock:
            found = [sock.connect_ex(address), bool(sock.getpeername())]
            found.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO))
        with socket.socket() as sock:
            found.append(sock.connect_ex(("127.0.0.1", 8)))
        with socket.socket() as sock:
            sock.setblocking(False)
            found.append(sock.connect_ex(address))
        raise FormatError(json.dumps(found))

    def accept() -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                accepted.append(silent.accept()[0])

    silent.settimeout(1.5)
    accepted: list[socket.socket] = []
    reach = Reach(
        [f"http://127.0.0.1:{port}/x" for port in (address[1], 8)],
        FetchOptions.build(policy="user"),
    )
    with confined(work, POWERS, required=False, reach=reach) as child:
        thread = threading.Thread(target=accept)
        thread.start()
        (last,) = child.receive(stop[0])
        thread.join()
    for sock in accepted:
        sock.close()
    assert isinstance(last, child_messages.Failed)
    assert json.loads(last.error["message"]) == [0, True, 0, errno.ECONNREFUSED, errno.EINPROGRESS]


def test_it_has_no_more_than_one_download_needs(stop: Any, tmp_path: Path) -> None:
    """Memory, room on the disk and threads are the host's."""
    (tmp_path / "x").touch()
    fd = os.open(tmp_path / "x", os.O_RDWR)

    def work(_: Channel) -> None:
        failed = []
        for take in (
            lambda: mmap.mmap(-1, 5 << 30, mmap.MAP_PRIVATE),
            lambda: mmap.mmap(-1, 4096, mmap.MAP_SHARED),
            lambda: [mmap.mmap(-1, 256 << 20, mmap.MAP_PRIVATE) for _ in range(20)],
            lambda: os.pwrite(fd, b"x", 1 << 20),
            lambda: os.ftruncate(fd, (1 << 20) + 1),
        ):
            try:
                take()
            except (OSError, MemoryError) as exc:
                failed.append(getattr(exc, "errno", errno.ENOMEM))
        os.pwrite(fd, b"x", (1 << 20) - 1)
        threads = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        raise FormatError(json.dumps([*failed, threads == 4096]))

    try:
        with confined(work, POWERS._replace(file_size=1 << 20), required=False, kept=[fd]) as child:
            (last,) = child.receive(stop[0])
    finally:
        os.close(fd)
    assert isinstance(last, child_messages.Failed)
    assert json.loads(last.error["message"]) == [
        errno.ENOMEM,
        errno.EPERM,
        errno.ENOMEM,
        errno.EFBIG,
        errno.EFBIG,
        POWERS.ids is not None,
    ]


def test_one_that_will_not_stop_is_killed(stop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker does not listen."""
    monkeypatch.setattr(module, "_GRACE_S", 0.3)

    def work(channel: Channel) -> None:
        channel.send({"begun": 1})
        while True:
            time.sleep(0.01)
            channel.send({"begun": 1})

    with confined(work, POWERS, required=False) as child:
        received = child.receive(stop[0])
        assert next(received) == child_messages.Begun(1)
        stop[1]()
        with pytest.raises(Cancelled):
            list(received)


def test_one_that_stops_says_how_far_it_came(stop: Any) -> None:
    """Its journal is flushed; then it is worth a resume."""

    def work(channel: Channel) -> None:
        channel.send({"begun": 1})
        while not channel.cancel.cancelled:
            time.sleep(0.01)
        channel.cancel.check()

    with confined(work, POWERS, required=False, keep=lambda: True) as child:
        received = child.receive(stop[0])
        assert next(received) == child_messages.Begun(1)
        stop[1]()
        (last,) = received
    assert isinstance(last, child_messages.Failed)
    assert (last.error["code"], last.keep) == (Cancelled.exit_code, True)


def test_it_has_the_descriptors_that_it_was_given(stop: Any) -> None:
    """And none that the one that started it had besides."""
    kept, other = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)

    def work(_: Channel) -> None:
        raise FormatError(json.dumps([fd for fd in range(256) if _is_open(fd)]))

    try:
        (message,) = _messages_of(work, stop, kept=[kept])
    finally:
        os.close(kept)
        os.close(other)
    assert isinstance(message, child_messages.Failed)
    found = set(json.loads(message.error["message"]))
    assert {0, 1, 2, kept} <= found
    assert other not in found
    # And the way to code below folders of root's, and the eventfd of its own that wakes it up.
    assert len(found) == 4 + len(supplies_for_confined().descriptors) + 1


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_host_that_must_confine_and_cannot_refuses(
    stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read; and another host may be able to."""
    monkeypatch.setattr(confine, "landlock_version", lambda: 0)

    def work(channel: Channel) -> None:
        channel.send(JUDGED)

    with confined(work, POWERS, required=True) as child:
        (message,) = child.receive(stop[0])
    assert isinstance(message, child_messages.Failed)
    assert message.error["code"] == ConfinementError.exit_code
    assert "Landlock" in message.error["message"]
    assert child.missing is not None
    assert "Landlock" in child.missing
    assert ConfinementError("x").retry_elsewhere
    with confined(work, POWERS, required=False) as child:
        assert list(child.receive(stop[0])) == [child_messages.Inspected("raw", None)]
    assert sys.exc_info() == (None, None, None)
