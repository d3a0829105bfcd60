# SPDX-License-Identifier: Apache-2.0
"""Messages that wait to be sent to the other managers: each once, and a bounded number of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from fastdl.manager.fabric import RESYNC, Message

PENDING_MAX: Final = 50_000


class Outbox:
    """In the order in which they were added. *wake* is set when there are new ones."""

    def __init__(self) -> None:
        self._pending: dict[Message, None] = {}
        self.wake = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._pending)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._pending)

    def add(self, message: Message) -> None:
        """Send *message* soon; too many that wait become one ``RESYNC``."""
        if len(self._pending) >= PENDING_MAX:
            self._pending = {(RESYNC,): None}
        self._pending[message] = None
        self.wake.set()

    def first(self, most: int) -> list[Message]:
        """Return the *most* messages that wait longest; they stay."""
        return list(islice(self._pending, most))

    def remove(self, messages: Iterable[Message]) -> None:
        """They are being sent: what is said from now on has to be sent again."""
        for message in messages:
            self._pending.pop(message, None)

    def put_back(self, messages: Iterable[Message]) -> None:
        """They were not sent, as far as is known: send them first."""
        self._pending = dict.fromkeys(messages) | self._pending
