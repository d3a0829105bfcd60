# SPDX-License-Identifier: Apache-2.0
"""The process that workers are forked from: ``python -m fastdl.agent.fork_server``.

It has loaded what a worker needs, which costs more than a small download. It has one thread and no
job's data, and opens nothing for a job. Requests arrive on standard input, a socket of messages:
``{"start": N}`` with the worker's standard input and output, and ``{"kill": N}``. It reports
``{"ended": N, "status": …}``, a status as ``subprocess`` has it. It ends when that socket is closed
and its last worker has ended, and with its agent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from fastdl.agent import worker
from fastdl.agent.confine import close_all_but
from fastdl.agent.supplies import supplied
from fastdl.model.digest import parse_checksum
from fastdl.model.url import Url
from fastdl.sinks.syscalls import die_with_parent

MESSAGE_MAX = 256
"""Bytes of a message between an agent and its server: ``workers`` has the other end."""


class _Server:
    """*channel*: the agent's; *ring*: readable when a signal has arrived."""

    def __init__(self, channel: socket.socket, ring: int) -> None:
        self._channel = channel
        self._ring = ring
        self._open = True
        self._workers: dict[int, int] = {}
        """pid → number of the agent's request."""

    def serve(self) -> None:
        """Until the agent closes the channel and the last worker has ended."""
        while self._open or self._workers:
            channel = self._channel.fileno()
            watched = [self._ring, channel] if self._open else [self._ring]
            ready, _, _ = select.select(watched, [], [])
            if channel in ready:
                self._receive()
            if self._ring in ready:
                os.read(self._ring, 1 << 12)
                self._reap()

    def _receive(self) -> None:
        data, ends, _, _ = socket.recv_fds(self._channel, MESSAGE_MAX, 2)
        try:
            if not data:
                self._open = False
                return
            message = json.loads(data)
            if "start" in message:
                self._start(message["start"], ends)
            for pid, number in self._workers.items():
                if number == message.get("kill"):
                    os.kill(pid, signal.SIGKILL)  # not reaped yet: it is still that one
        finally:
            for fd in ends:
                os.close(fd)

    def _start(self, number: int, ends: Sequence[int]) -> None:
        try:
            pid = os.fork()
        except OSError as exc:
            sys.stderr.write(f"fork: {exc.strerror}\n")
            self._report(number, 1)
            return
        if not pid:
            _become_worker(ends)
        self._workers[pid] = number

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number = self._workers.pop(pid)
            self._report(number, os.waitstatus_to_exitcode(status))

    def _report(self, number: int, status: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the agent has closed it
            self._channel.send(json.dumps({"ended": number, "status": status}).encode())


def _become_worker(ends: Sequence[int]) -> NoReturn:
    """In the new process: nothing is left of the server but the code that it loaded."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(ends):
            os.dup2(fd, number)
        close_all_but({0, 1, 2, *supplied().descriptors})
        code = worker.main()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the last frame of the process
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _use() -> None:
    """Compile the patterns that each job uses; a fork finds them compiled."""
    Url.parse("http://192.0.2.1:80/")
    parse_checksum(f"{{SHA-256}}{'0' * 64}")


def main() -> int:
    """Serve the agent whose socket is standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)
    channel = socket.socket(fileno=os.dup(0))
    ring, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    supplied()
    _use()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that it visits
    _Server(channel, ring).serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
