# SPDX-License-Identifier: Apache-2.0
"""What the ledger forgets, so that it does not grow forever."""

from __future__ import annotations

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import (
    accounts,
    certs,
    jobs,
    managers,
    piece_lists,
    records,
    slots,
    tokens,
    vms,
)

CERTS_S: Final = 3600.0
"""Nobody lists a deleted certificate; only a call that still waits for its hosts reads it."""


async def prune(tx: AsyncConnection, *, now: float, before: float) -> None:
    """Delete what is over, at *now*; of what people may look up, what ended before *before*."""
    await accounts.prune_claims(tx, now=now)
    await records.prune(tx, before=before)
    await jobs.prune(tx, before=before)
    await certs.prune(tx, before=now - CERTS_S)
    await slots.prune(tx)
    await tokens.prune(tx, before=before)
    await vms.prune(tx, before=before)
    await piece_lists.prune(tx)
    await managers.prune(tx, before=before)
