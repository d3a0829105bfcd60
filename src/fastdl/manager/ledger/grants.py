# SPDX-License-Identifier: Apache-2.0
"""Accounts that a template which is not public was shared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import template
from fastdl.manager.ledger.tables import template_account as t


async def of_template(tx: AsyncConnection, template_id: str) -> list[str]:
    """Return the accounts that the template was shared with, by name."""
    query = select(t.c.account).where(t.c.template == template_id).order_by(t.c.account)
    return list((await tx.execute(query)).scalars())


async def add(tx: AsyncConnection, template_id: str, accounts: Iterable[str]) -> None:
    """Also share the template with *accounts*."""
    known = set(await of_template(tx, template_id))
    new = [{"template": template_id, "account": one} for one in sorted(set(accounts) - known)]
    if new:
        await tx.execute(insert(t), new)


async def remove(
    tx: AsyncConnection, template_id: str, accounts: Iterable[str] | None = None
) -> None:
    """Stop sharing the template with *accounts*; None = with anybody."""
    query = delete(t).where(t.c.template == template_id)
    if accounts is not None:
        query = query.where(t.c.account.in_(sorted(set(accounts))))
    await tx.execute(query)


async def has(tx: AsyncConnection, template_id: str, account: str) -> bool:
    """Whether the template was shared with *account*."""
    query = select(t.c.account).where(t.c.template == template_id, t.c.account == account)
    return (await tx.scalar(query)) is not None


def shared_with(account: str) -> ColumnElement[Any]:
    """Return the condition that a template was shared with *account*."""
    query = select(t.c.account).where(t.c.template == template.c.id, t.c.account == account)
    return query.exists()
