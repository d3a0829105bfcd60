# SPDX-License-Identifier: Apache-2.0
"""Users, their keys, and which signed requests have already taken effect."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.ledger.tables import account as t
from fastdl.manager.ledger.tables import replay, template, template_account
from fastdl.manager.ledger.text import new_id


class ResourceLimitError(ApiConflictError):
    """An account has reached its limit (HTTP 535, as in CloudStack)."""


async def create(
    tx: AsyncConnection,
    *,
    username: str,
    account: str,
    password_hash: str,
    admin: bool,
    now: float,
    firstname: str = "",
    lastname: str = "",
    email: str = "",
) -> str:
    """Create a user without keys; ApiConflictError if the name is taken."""
    id_ = new_id()
    try:
        await tx.execute(
            insert(t).values(
                id=id_,
                username=username,
                account=account,
                admin=admin,
                enabled=True,
                password_hash=password_hash,
                firstname=firstname,
                lastname=lastname,
                email=email,
                created=now,
            )
        )
    except IntegrityError:
        raise ApiConflictError(f"The user {username} already exists") from None
    return id_


async def new_keys(
    tx: AsyncConnection, user: str, *, seal: Callable[[str, str], str]
) -> tuple[str, str]:
    """Give *user* a new key pair, replacing the old one; return (API key, secret key).

    *seal*: turns (user, secret key) into what is stored.
    """
    keys = secrets.token_urlsafe(64)[:86], secrets.token_urlsafe(64)[:86]
    stored = {"api_key": keys[0], "secret_key": seal(user, keys[1])}
    await tx.execute(update(t).where(t.c.id == user).values(**stored))
    return keys


async def change(tx: AsyncConnection, user: str, values: Mapping[str, Any]) -> None:
    """Give the columns of *user* new *values*; ApiConflictError if the name is taken."""
    try:
        await tx.execute(update(t).where(t.c.id == user).values(**values))
    except IntegrityError:
        raise ApiConflictError(f"The user {values['username']} already exists") from None


async def remove(tx: AsyncConnection, user: str) -> None:
    """Delete *user*; what the user made stays. Deleting the last user of an account also deletes
    what was shared with it: a later account of that name belongs to somebody else.
    """
    account = await tx.scalar(select(t.c.account).where(t.c.id == user))
    await tx.execute(delete(t).where(t.c.id == user))
    if (await tx.execute(select(t.c.id).where(t.c.account == account).limit(1))).first() is None:
        await tx.execute(delete(template_account).where(template_account.c.account == account))


async def set_password(tx: AsyncConnection, user: str, password_hash: str) -> None:
    """Give *user* a new password."""
    await tx.execute(update(t).where(t.c.id == user).values(password_hash=password_hash))


async def by_key(tx: AsyncConnection, api_key: str) -> Row[Any] | None:
    """Return the enabled user with this API key."""
    rows = await tx.execute(select(t).where(t.c.api_key == api_key, t.c.enabled.is_(True)))
    return rows.first()


async def by_name(tx: AsyncConnection, username: str) -> Row[Any] | None:
    """Return the enabled user of this name."""
    rows = await tx.execute(select(t).where(t.c.username == username, t.c.enabled.is_(True)))
    return rows.first()


async def administrator(tx: AsyncConnection) -> Row[Any] | None:
    """Return an enabled administrator: the one called admin if there is one, else the oldest."""
    query = select(t).where(t.c.admin.is_(True), t.c.enabled.is_(True))
    return (await tx.execute(query.order_by(t.c.username != "admin", t.c.created))).first()


async def get(tx: AsyncConnection, user: str) -> Row[Any] | None:
    """Return the user with this id."""
    return (await tx.execute(select(t).where(t.c.id == user))).first()


async def all_users(tx: AsyncConnection) -> list[Row[Any]]:
    """Return every user, by name."""
    return list(await tx.execute(select(t).order_by(t.c.username)))


async def claim_template(tx: AsyncConnection, account: str, *, most: int) -> None:
    """``check_templates`` for a template that *tx* stores.

    The account's rows are locked until *tx* ends: of two concurrent registrations, the second
    counts the first one's template.
    """
    await tx.execute(
        select(t.c.id).where(t.c.account == account).order_by(t.c.id).with_for_update()
    )
    await check_templates(tx, account, most=most)


async def check_templates(tx: AsyncConnection, account: str, *, most: int) -> None:
    """ResourceLimitError if *account* already has *most* templates and ISOs."""
    query = select(func.count()).where(template.c.account == account, template.c.removed.is_(None))
    require_room(account, "template", most=most, held=await tx.scalar(query) or 0, wanted=1)


def require_room(account: str, what: str, *, most: int, held: int, wanted: int) -> None:
    """ResourceLimitError if *wanted* more would exceed the limit of *account* on *what*."""
    if held + wanted > most:
        raise ResourceLimitError(
            f"Maximum amount of resources of Type = '{what}' for Account Name = {account} is "
            f"exceeded: Account Resource Limit = {most}, Current Account Resource Amount = "
            f"{held}, Requested Resource Amount = {wanted}."
        )


async def lock(tx: AsyncConnection, account: str) -> None:
    """Lock the users of *account* until the end of the transaction."""
    query = select(t.c.id).where(t.c.account == account).order_by(t.c.id)
    await tx.execute(query.with_for_update())


async def claim_request(tx: AsyncConnection, claim: str, *, until: float) -> bool:
    """Note that the request with *claim* takes effect; False = it did before."""
    if await was_claimed(tx, claim):
        return False
    await tx.execute(insert(replay).values(digest=claim, until=until))
    return True


async def was_claimed(tx: AsyncConnection, claim: str) -> bool:
    """Whether the request with *claim* took effect before."""
    return await tx.scalar(select(replay.c.until).where(replay.c.digest == claim)) is not None


async def prune_claims(tx: AsyncConnection, *, now: float) -> None:
    """Forget requests that have expired."""
    await tx.execute(delete(replay).where(replay.c.until < now))
