# SPDX-License-Identifier: Apache-2.0
"""Which managers are heard? Each says every second that it is alive."""

from __future__ import annotations

from typing import Final

BEAT_S: Final = 1.0
GONE_S: Final = 4.0
"""A manager that was not heard for so long is gone, or cut off."""
GRACE_S: Final = 10.0
"""How long the others have, after this manager made its connection, to make theirs."""


class Watch:
    """When this manager heard each manager, itself included. Times are of a clock that does not
    jump; nothing here decides what is right, only how soon it is looked after."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._heard: dict[str, float] = {}

    def connected(self, now: float) -> None:
        """A connection was made: nobody can have been heard meanwhile."""
        self._heard = dict.fromkeys(self._heard, now + GRACE_S - GONE_S)
        self._heard[self._name] = now

    def hear(self, name: str, now: float) -> None:
        """A manager said that it is alive."""
        self._heard[name] = now

    def leave(self, name: str) -> None:
        """A manager said that it stops."""
        if name != self._name:
            self._heard.pop(name, None)

    def is_deaf(self, now: float) -> bool:
        """Whether not even this manager's own messages come back: the connection is of no use."""
        return now - self._heard[self._name] > GONE_S

    def take_gone(self, now: float) -> list[str]:
        """Return the managers that fell silent, once; nobody while it may be our connection."""
        if now - self._heard[self._name] > 2 * BEAT_S:
            return []
        silent = [name for name, heard in self._heard.items() if now - heard > GONE_S]
        for name in silent:
            del self._heard[name]
        return sorted(silent)
