# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM end a transfer cleanly, whatever it waits for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from fastdl.engine.cancel import Cancel
from fastdl.errors import LimitError

T = TypeVar("T")


def run_cancellable(work: Callable[[Cancel], T], tick: Callable[[], None] | None = None) -> T:
    """Run *work* in a thread while this one takes signals, and calls *tick* some times a second.

    Python runs signal handlers in the main thread only, and not while it is inside the core:
    so the core's calls are made by another one. A second signal does what it does by default.
    """
    cancel = Cancel()
    results: list[T] = []
    errors: list[BaseException] = []
    old: dict[signal.Signals, Any] = {}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        cancel.cancel(f"stopped by {signal.Signals(number).name}; the same command resumes")

    def body() -> None:
        try:
            results.append(work(cancel))
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(exc)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup, to outlive its terminal
            old[number] = signal.signal(number, stop)
    thread = threading.Thread(target=body, name="transfer")
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread": all that it ever says
        raise LimitError("the system allows no more threads (ulimit -u)") from None
    try:
        while thread.is_alive():
            thread.join(0.2)  # a wait without limit would not let handlers run
            if tick is not None:
                tick()
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if errors:
        raise errors[0]
    return results[0]
