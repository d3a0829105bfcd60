# SPDX-License-Identifier: Apache-2.0
"""Which of several mirrors responds first? The next one is tried if the last is slow."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from fastdl.core.net import Stream
from fastdl.engine.cancel import Cancel
from fastdl.errors import FastdlError, InternalError

Attempt = Callable[[int, Cancel], tuple[Stream, bytes]]


def first_of(
    order: Sequence[int], attempt: Attempt, cancel: Cancel, patience_s: float
) -> tuple[int, tuple[Stream, bytes], dict[int, FastdlError]]:
    """Run *attempt* for one index after the other until one has a response.

    The next one starts when the last has failed or *patience_s* seconds have passed; losers
    are cancelled. Returns (index, response, failures so far); raises the first mirror's error if
    all have failed.
    """
    responses: queue.SimpleQueue[tuple[int, tuple[Stream, bytes] | BaseException]] = (
        queue.SimpleQueue()
    )
    cancels: dict[int, Cancel] = {}
    threads: list[threading.Thread] = []
    failed: dict[int, FastdlError] = {}
    left = list(order)

    def work(index: int, own: Cancel) -> None:
        try:
            responses.put((index, attempt(index, own)))
        except BaseException as exc:  # noqa: BLE001 - handed to the caller's thread
            responses.put((index, exc))

    def start() -> None:
        index = left.pop(0)
        cancels[index] = Cancel()
        thread = threading.Thread(target=work, args=(index, cancels[index]), daemon=True)
        threads.append(thread)
        thread.start()

    def stop_all() -> None:
        for each in cancels.values():
            each.cancel()

    with cancel.stops(stop_all):
        start()
        won: tuple[int, tuple[Stream, bytes]] | None = None
        while won is None:
            try:
                index, response = responses.get(timeout=patience_s if left else 0.2)
            except queue.Empty:
                cancel.check()
                if left:
                    start()
                continue
            if isinstance(response, tuple):
                won = (index, response)
            elif isinstance(response, FastdlError):
                cancel.check()
                failed[index] = response
                if left:
                    start()
                elif len(failed) == len(order):
                    raise failed[order[0]]
            else:
                raise InternalError("a probe failed unexpectedly") from response
    for index, each in cancels.items():
        if index != won[0]:
            each.cancel()
    for thread in threads:
        thread.join()
    while not responses.empty():  # a second mirror responded at the same time
        _, late = responses.get()
        if isinstance(late, tuple):
            late[0].close()
    return won[0], won[1], failed
