# SPDX-License-Identifier: Apache-2.0
"""How the managers of one ledger wake each other, if there can be several.

A message is a topic and a few words. Messages may be lost, repeated and reordered: what they are
about is in the ledger, and whoever may have missed some gets ``RESYNC`` and looks at all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

RESYNC: Final = "resync"
"""Messages may have been missed: everything is to be looked at once."""
GONE: Final = "gone"
"""A manager, the one word, is not heard any more although messages arrive: it has died, or is cut
off. Only a fabric that hears of every manager all the time says so."""
WAKE: Final = "wake"
PAGE: Final = "page"
PROGRESS: Final = "progress"
SEND: Final = "send"
PASSING: Final = frozenset({WAKE, PAGE, PROGRESS, SEND})
"""Topics of messages that are of no use later: whoever is not listening need not get them."""

Message = tuple[str, ...]
Receive = Callable[[Message], None]


class Fabric(Protocol):
    """Reaches the other managers of the ledger."""

    def notify(self, topic: str, *words: str) -> None:
        """Tell every other manager soon; one that waits to be sent is not sent twice."""


class SharedFabric(Fabric, Protocol):
    """One that there are other managers on."""

    receive: Receive
    """Called with each message of another manager, and with ``RESYNC`` and ``GONE``."""
    hears: bool
    """Whether messages can arrive now; otherwise the ledger is all there is."""

    async def check(self) -> None:
        """UsageError if it can never work as it is configured."""

    async def run(self) -> None:
        """Send and receive until cancelled."""

    async def close(self) -> None:
        """Close what ``run`` left."""


class LocalFabric:
    """The only manager of its ledger: there is nobody to tell."""

    def notify(self, topic: str, *words: str) -> None:
        """Do nothing."""
