# SPDX-License-Identifier: Apache-2.0
"""The lists of templates' pieces; one for each template at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import piece_list as t
from fastdl.manager.ledger.tables import template
from fastdl.manager.ledger.text import dumps
from fastdl.wire import messages as m


async def get(tx: AsyncConnection, template_id: str, sha256: str) -> Row[Any] | None:
    """Return the list of the template, if it is of the file with this digest."""
    query = select(t).where(t.c.template == template_id, t.c.sha256 == sha256)
    return (await tx.execute(query)).first()


async def put(
    tx: AsyncConnection,
    template_id: str,
    found: m.PieceList,
    *,
    host: str,
    refused: Sequence[str],
    now: float,
) -> None:
    """Store the list that *host* found, in place of any other. The caller has locked the template.

    *refused*: hosts whose lists were others.
    """
    await tx.execute(delete(t).where(t.c.template == template_id))
    await tx.execute(
        insert(t).values(
            template=template_id,
            sha256=found.sha256,
            size=found.size,
            length=found.length,
            hashes=found.hashes,
            host=host,
            refused=dumps(list(refused)),
            created=now,
        )
    )


async def prune(tx: AsyncConnection) -> None:
    """Delete the lists of templates that were removed."""
    gone = select(template.c.id).where(template.c.removed.is_not(None))
    await tx.execute(delete(t).where(t.c.template.in_(gone)))
