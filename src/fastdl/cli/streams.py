# SPDX-License-Identifier: Apache-2.0
"""What if the standard streams are closed, full, or speak another encoding?"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from fastdl.errors import FastdlError
from fastdl.sinks.base import sink_error


def prepare() -> None:
    """Make descriptors 0 to 2 and ``sys.stdin`` to ``sys.stderr`` usable, whatever was handed down.

    A daemon may start a command with a stream closed: the number must not go to a target, where
    a message would be written into an image. What an encoding cannot spell is escaped.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: open() takes the lowest free number, which is this one
            os.open(os.devnull, os.O_RDWR)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = getattr(sys, name)
        if stream is None:
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
    """Print *text*, a verb's output.

    BrokenPipeError if the reader has gone, SinkSpaceError or its kin for a full disk.
    """
    try:
        print(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def report_done(text: str) -> None:
    """Print *text* about something that is done for good: failing to print it changes nothing."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        warn(f"the result cannot be printed: {error.strerror}")


def flush_output() -> None:
    """Hand on what was printed. BrokenPipeError where the reader has gone; else a sink's error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> FastdlError:
    discard_output()
    return sink_error(error, "writing to standard output")


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
