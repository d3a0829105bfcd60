# SPDX-License-Identifier: Apache-2.0
"""What does the end of a process say about the job that it worked on?"""

from __future__ import annotations

import signal

from fastdl.errors import InternalError

CRASHES = frozenset({
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS,
    signal.SIGTRAP,
})  # fmt: skip
"""The signals that a process brings on itself: a bad access, an abort, a forbidden system call."""


def error_of_death(process: str, status: int) -> InternalError:
    """Return the error of a job whose *process* ended without saying a result.

    *status* is an exit code, or a signal's number below
    zero, as ``subprocess`` has them. A crash is final: the same bytes would do the same to the
    next attempt, on this host and on every other one. A kill from outside (an operator, the kernel
    short of memory) says nothing about the bytes and may be retried.
    """
    if status >= 0:
        return InternalError(
            f"{process} died: exit status {status} without a result", retryable=True
        )
    number = signal.Signals(-status)
    crashed = number in CRASHES
    return InternalError(
        f"{process} {'crashed' if crashed else 'was killed'}: signal {number.name}",
        retryable=not crashed,
    )
