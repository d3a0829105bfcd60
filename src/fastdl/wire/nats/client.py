# SPDX-License-Identifier: Apache-2.0
"""The client library's connection, whose calls can be cancelled at every moment.

The library loses some cancellations: where it flushes, and, before Python 3.12, where ``wait_for``
has a result at the same moment. Whoever was cancelled would go on, and whoever waits for its end,
such as a manager that stops, would hang.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from nats.aio import client as library

P = ParamSpec("P")
R = TypeVar("R")


def obeying(call: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return *call* that raises the cancellation that it was given, if it lost it."""

    @functools.wraps(call)
    async def obey(*args: P.args, **options: P.kwargs) -> R:
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        result = await call(*args, **options)
        if task.cancelling() > before:
            raise asyncio.CancelledError
        return result

    return obey


class Client(library.Client):
    """What the library's other calls, as those of JetStream, go through as well. Only a
    ``Subscription`` has calls of its own."""

    connect = obeying(library.Client.connect)
    close = obeying(library.Client.close)
    flush = obeying(library.Client.flush)
    publish = obeying(library.Client.publish)
    request = obeying(library.Client.request)
    subscribe = obeying(library.Client.subscribe)
