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

Message = tuple[str, ...]
Receive = Callable[[Message], None]


class Fabric(Protocol):
    """Reaches the other managers of the ledger."""

    def notify(self, topic: str, *words: str) -> None:
        """Tell every other manager soon; one that waits to be sent is not sent twice."""


class LocalFabric:
    """The only manager of its ledger: there is nobody to tell."""

    def notify(self, topic: str, *words: str) -> None:
        """Do nothing."""
