# SPDX-License-Identifier: Apache-2.0
"""What if the standard streams are closed, full, or speak another encoding?"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator

from fastdl.errors import SinkIOError
from fastdl.sinks.base import sink_error


def prepare() -> None:
    """Make descriptors 0 to 2 and ``sys.stdin`` to ``sys.stderr`` usable, whatever was handed down.

    A daemon may start a command with a stream closed: the number must not go to a target, where
    a message would be written into an image. What an encoding cannot spell is escaped.
    """
    for number, way in ((0, os.O_RDWR), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:  # closed: open() takes the lowest free number, which is this one
            os.open(os.devnull, way)  # what is written to standard output fails, as if closed
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        unbuffered = mode == "w" and isinstance(getattr(stream, "buffer", None), io.FileIO)
        if stream is None or unbuffered:  # without a buffer a short write would be lost
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def warn(text: str) -> None:
    """A warning on stderr; stderr may be closed."""
    with contextlib.suppress(OSError):
        print(f"fastdl: warning: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print *text* on stderr; stderr may be closed."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print *text*, a verb's output, and hand it on at once.

    BrokenPipeError if the reader has gone, SinkSpaceError or its kin for a full disk.
    """
    with _writing():
        print(text, flush=True)


def hand_on(data: bytes) -> None:
    """`say` of bytes as they are."""
    with _writing():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def report_done(text: str) -> bool:
    """Print *text* about something that is done for good: failing to print it changes nothing.

    False where somebody is to read it and cannot.
    """
    if _lost:
        return False
    try:
        print(text, flush=True)
    except OSError as error:
        discard_output()
        if error.errno == errno.EBADF:  # nobody was ever to read it
            warn("the result cannot be printed: standard output is closed")
            return True
        _lost.append(error)
        if error.errno != errno.EPIPE:
            warn(f"the result cannot be printed: {error.strerror}")
        return False
    return True


def flush_output() -> None:
    """Hand on what was printed. BrokenPipeError where the reader has gone; else a sink's error."""
    with _writing():
        sys.stdout.flush()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        if error.errno == errno.EBADF:
            raise SinkIOError("writing to standard output: it is closed", phase="land") from None
        raise sink_error(error, "writing to standard output") from None


_lost: list[OSError] = []
"""Why results are not printed any more: once it has failed, the rest would have a gap."""


def discard_output() -> None:
    """Forget what could not be written: Python must not fail again when it flushes at exit."""
    _point_at_null(1)


def settle() -> None:
    """The last flush of both outputs: what fails now changes no exit code any more."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            _point_at_null(number)


def _point_at_null(number: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, number)
        os.close(null)
