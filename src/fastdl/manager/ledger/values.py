# SPDX-License-Identifier: Apache-2.0
"""Values that go into and out of the ledger, without SQL: shared by deciders and statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Slot = tuple[str, str]
"""(kind, key): ``origin`` = scheme://host:port, fleet-wide; ``host`` and ``pool`` = ids."""

URGENT: Final = 0
"""Rank of a download that a VM waits for."""
BULK: Final = 10
"""Rank of seeding ahead of need."""

DELAY_MAX_S: Final = 3600.0
"""No job is postponed for longer, whatever an origin requests."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One queued job. *origins*: a slot is needed on each; *tried*: hosts of this round."""

    id: str
    pool: str
    rank: int
    fence: int
    origins: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    template: str = ""
    volume: str = ""
    paced: bool = True
    """False = no slots needed (removing a copy)."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Grant *job* to *host*; *slots* with the limit each was checked against, in a fixed order."""

    job: str
    fence: int
    host: str
    slots: tuple[tuple[Slot, int], ...]
    template: str = ""
    copy: tuple[str, str] | None = None
    """(pool, volume) that the job is about."""
