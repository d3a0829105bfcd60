# SPDX-License-Identifier: Apache-2.0
"""A confined process, as seen by the process that starts it, reads its messages and ends it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from fastdl.agent import child_messages
from fastdl.agent.broker import Broker, can_broker
from fastdl.agent.child_errors import log
from fastdl.agent.confine import Powers, close_all_but, confine
from fastdl.agent.confined import Channel, run
from fastdl.agent.death import error_of_death
from fastdl.agent.reach import Reach
from fastdl.agent.supplies import supplied, supplies_for_confined
from fastdl.errors import Cancelled, ConfinementError, InternalError

_GRACE_S = 8.0
"""How long a cancelled process may take to flush its data. The agent waits 10 s."""
_WORDS_MAX = 500
"""Bytes of its standard error that are kept for a crash report."""

Task = Callable[[Channel], None]

Last = child_messages.Found | child_messages.Inspected | child_messages.Failed


class Stop:
    """Whether the agent has cancelled this job: its pipe was closed, or SIGTERM arrived."""

    def __init__(self, pipe: int) -> None:
        self._ring, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self.fds = (pipe, self._ring)

    def check(self) -> None:
        """Raise Cancelled if it has."""
        if select.select(self.fds, [], [], 0)[0]:
            raise Cancelled("the job was cancelled")


class Child:
    """One confined process. *missing*: the parts of its confinement that this machine lacks; None
    until reported."""

    def __init__(self, pid: int, lines: int, words: int, replies: int, reach: Reach | None) -> None:
        self.missing: tuple[str, ...] | None = None
        self._reach = reach
        self._broker: Broker | None = None
        self._pid = pid
        self._lines = lines
        self._words = words
        self._replies = replies
        self._received = bytearray()
        self._tail = b""

    def receive(self, stop: Stop) -> Iterator[child_messages.Message]:
        """Yield its messages, up to the last one of its work; then it is gone.

        Once *stop* is set it is asked to end, and killed if it does not. Raises InternalError when
        it dies before its last message or sends an invalid one.
        """
        end: float | None = None
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                self.end()
                raise Cancelled("the job was cancelled")
            watched = [fd for fd in (self._lines, self._words, self._listener) if fd >= 0]
            asking = stop.fds if end is None else ()
            broker = self._broker
            connecting = broker.connecting if broker is not None else ()
            ready, connected, _ = select.select([*watched, *asking], connecting, [], left)
            if broker is not None:
                broker.serve({*ready, *connected})
            if self._words in ready:
                self._keep_words()
            if self._lines in ready:
                more = self._take_lines()
                for message in self._messages():
                    yield message
                    if isinstance(message, Last):
                        self.end()
                        return
                if not more:
                    raise self._died()
            # Also while it sends: a process that floods us could never be stopped otherwise.
            if end is None and any(fd in ready for fd in asking):
                os.close(self._replies)
                self._replies = -1
                end = time.monotonic() + _GRACE_S

    @property
    def public_only(self) -> bool:
        """Whether it connected, and only to public addresses; False if that is unknown."""
        return self._reach is not None and self._reach.public_only

    def reply(self, error: dict[str, Any] | None) -> None:
        """Report that its request was done or failed with *error*; no effect once it is
        stopping."""
        if self._replies < 0:
            return
        with contextlib.suppress(BrokenPipeError):
            os.write(self._replies, json.dumps(error).encode() + b"\n")

    def end(self) -> int:
        """Kill it; on return it and everything it had open is gone. Returns its exit status."""
        if self._pid < 0:
            return 0
        with contextlib.suppress(PermissionError):  # without CAP_KILL: it ends with its pipes
            os.kill(self._pid, signal.SIGKILL)
        self._close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = -1
        return os.waitstatus_to_exitcode(status)

    def _close(self) -> None:
        for fd in (self._lines, self._words, self._replies):
            if fd >= 0:
                os.close(fd)
        self._lines = self._words = self._replies = -1
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def _take_lines(self) -> bool:
        data = os.read(self._lines, 1 << 16)
        self._received += data
        return bool(data)

    def _messages(self) -> Iterator[child_messages.Message]:
        while (at := self._received.find(b"\n")) >= 0:
            line = bytes(self._received[:at])
            del self._received[: at + 1]
            try:
                message = child_messages.parse(line)
            except ValueError as exc:
                raise self._protocol_error(str(exc)) from None
            if isinstance(message, child_messages.Confined) != (self.missing is None):
                raise self._protocol_error("a message out of order")
            if isinstance(message, child_messages.Confined):
                self._confined(message)
            else:
                yield message
        if len(self._received) > child_messages.LINE_MAX:
            raise self._protocol_error("its line has no end")

    @property
    def _listener(self) -> int:
        return self._broker.listener if self._broker is not None else -1

    def _confined(self, message: child_messages.Confined) -> None:
        self.missing = message.missing
        if message.listener is None:
            return
        if self._reach is None:
            raise self._protocol_error("it asks for a network")
        try:
            self._broker = Broker(self._pid, message.listener, self._reach)
        except OSError as exc:
            if exc.errno == errno.ESRCH:
                return  # it has ended, and may have sent the reason after this message
            raise InternalError(f"cannot take over the download's connections: {exc}") from exc
        self.reply(None)

    def _keep_words(self) -> None:
        data = os.read(self._words, 1 << 12)
        if data:
            self._tail = (self._tail + data)[-_WORDS_MAX:]
        else:
            os.close(self._words)
            self._words = -1

    def _protocol_error(self, why: str) -> InternalError:
        self.end()
        return InternalError(f"the download's process sent an invalid message: {why}")

    def _died(self) -> InternalError:
        while self._words >= 0 and select.select([self._words], [], [], 0)[0]:
            self._keep_words()
        # It may only have closed its end: then it is still alive, but useless.
        status = self._wait_or_end()
        log(self._tail.decode(errors="replace"))
        return error_of_death("the download's process", status)

    def _wait_or_end(self) -> int:
        for _ in range(20):
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = -1
                self._close()
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return self.end()


@contextlib.contextmanager
def confined(
    work: Task,
    powers: Powers,
    *,
    required: bool,
    kept: Iterable[int] = (),
    keep: Callable[[], bool] = lambda: False,
    reach: Reach | None = None,
) -> Iterator[Child]:
    """Fork this process; the child runs *work* with only *powers* and the descriptors *kept*.

    *required*: the child refuses to run if this machine cannot confine it fully. *keep*: see
    ``child_messages.Failed``. *reach*: where it may connect; None for nowhere. This process must
    have a single thread. The child is gone when the block ends.
    """
    powers = powers._replace(network=reach is not None, brokered=reach is not None and can_broker())
    lines, out = os.pipe()
    words, err = os.pipe()
    source, replies = os.pipe()
    supplies_for_confined()
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        _become(work, powers, (source, out, err), kept, parent, keep, required=required)
    for fd in (out, err, source):
        os.close(fd)
    child = Child(pid, lines, words, replies, reach)
    try:
        yield child
    finally:
        child.end()


def _become(
    work: Task,
    powers: Powers,
    ends: Sequence[int],
    kept: Iterable[int],
    parent: int,
    keep: Callable[[], bool],
    *,
    required: bool,
) -> None:
    """In the new process; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, fd in enumerate(ends):
            os.dup2(fd, number)
        close_all_but({0, 1, 2, *kept, *supplied().descriptors})
        missing, listener = confine(powers)
        if os.getppid() != parent:  # it died before this could be noticed
            return
        channel = Channel()
        channel.listen()
        run(channel, partial(_start, work, missing, listener, required=required), keep=keep)
        code = 0
    except BaseException as exc:  # noqa: BLE001 - the last frame of the process
        os.write(2, f"{type(exc).__name__}: {exc}".encode())
    finally:
        os._exit(code)


def _start(
    work: Task, missing: Sequence[str], listener: int, channel: Channel, *, required: bool
) -> None:
    """Report how this process is confined, hand over its connections, and run *work*."""
    if listener < 0:
        channel.send({"confined": {"missing": missing, "listener": None}})
    else:
        channel.request({"confined": {"missing": missing, "listener": listener}})
        os.close(listener)
    if missing and required:
        raise ConfinementError(
            f"this host lacks {' and '.join(missing)} to confine a download, which "
            "fastdl.confinement=required asks for"
        )
    work(channel)
