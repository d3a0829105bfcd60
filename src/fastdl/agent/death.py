# SPDX-License-Identifier: Apache-2.0
"""What does the death of a process mean for its job?"""

from __future__ import annotations

import signal

from fastdl.errors import InternalError

CRASHES = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
"""Signals that a process causes itself: a bad access, an abort, a forbidden system call."""


def error_of_death(process: str, status: int) -> InternalError:
    """Return the error of a job whose *process* ended without a result.

    *status* is an exit code, or a signal's number below zero, as ``subprocess`` has them. A
    crash is permanent: the same bytes would crash the next attempt too, on this and every other
    host. A kill from outside (an operator, the kernel short of memory) may be retried.
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
