# SPDX-License-Identifier: Apache-2.0
"""Work that one manager of a ledger does at a time: who holds the lease. That saves work only;
whatever is done checks the ledger again in its own transaction."""

from __future__ import annotations

from fastdl.manager.clock import Clock
from fastdl.manager.ledger import records
from fastdl.manager.ledger.engine import Ledger


class Chore:
    """One kind of work. *owner*: this manager's name; *ttl*: seconds after its last round after
    which another manager may take it over."""

    def __init__(self, name: str, owner: str, *, ledger: Ledger, clock: Clock, ttl: float) -> None:
        self._name = name
        self._owner = owner
        self._ledger = ledger
        self._clock = clock
        self._ttl = ttl

    async def is_ours(self) -> bool:
        """Whether this manager is to do it now; takes or renews the lease."""
        now = self._clock.steady()
        fence = await self._ledger.write(
            lambda tx: records.take_lease(tx, self._name, self._owner, now=now, ttl=self._ttl)
        )
        return fence is not None

    async def hand_over(self) -> None:
        """Let another manager do it at once."""
        await self._ledger.write(lambda tx: records.drop_lease(tx, self._name, self._owner))
