# SPDX-License-Identifier: Apache-2.0
"""Zones, and the one-time tokens by which hosts enter them."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError, ApiConflictError
from fastdl.manager.ledger.tables import host, token, zone
from fastdl.manager.ledger.text import new_id
from fastdl.wire.token import EnrolToken


async def create(tx: AsyncConnection, name: str, *, now: float) -> str:
    """Create an enabled zone; ApiConflictError where the name is taken."""
    id_ = new_id()
    try:
        await tx.execute(insert(zone).values(id=id_, name=name, enabled=True, created=now))
    except IntegrityError:
        raise ApiConflictError(f"A zone with the name {name} already exists") from None
    return id_


async def change(
    tx: AsyncConnection, id_: str, *, name: str | None = None, enabled: bool | None = None
) -> None:
    """Rename, enable or disable a zone."""
    new = {"name": name, "enabled": enabled}
    values = {key: value for key, value in new.items() if value is not None}
    if not values:
        return
    try:
        await tx.execute(update(zone).where(zone.c.id == id_).values(**values))
    except IntegrityError:
        raise ApiConflictError(f"A zone with the name {name} already exists") from None


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the zone with this id."""
    return (await tx.execute(select(zone).where(zone.c.id == id_))).first()


async def all_zones(tx: AsyncConnection) -> list[Row[Any]]:
    """Return every zone, oldest first."""
    return list(await tx.execute(select(zone).order_by(zone.c.created, zone.c.id)))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def add_token(
    tx: AsyncConnection, new: EnrolToken, *, zone_id: str, cluster: str, expires: float
) -> None:
    """Store a token: its id and the hash of its secret."""
    await tx.execute(
        insert(token).values(
            id=new.id,
            zone=zone_id,
            cluster=cluster,
            secret_hash=_hash(new.secret),
            expires=expires,
        )
    )


async def use_token(
    tx: AsyncConnection, shown: EnrolToken, *, key_hash: str, name: str, now: float
) -> Row[Any]:
    """Exchange a token for a host (created here); return the host's row.

    The key that used a token may use it again, so that a lost answer does not lock a host
    out. Raises AgentRefusedError for an unknown, expired or used token.
    """
    row = (await tx.execute(select(token).where(token.c.id == shown.id))).first()
    if row is None or not hmac.compare_digest(row.secret_hash, _hash(shown.secret)):
        raise AgentRefusedError("the enrolment token is not known here: create a new one")
    if row.expires < now:
        raise AgentRefusedError("the enrolment token has expired: create a new one")
    if row.key_hash is None:
        host_id = new_id()
        await tx.execute(
            insert(host).values(
                id=host_id,
                zone=row.zone,
                cluster=row.cluster,
                name=name,
                state="Connecting",
                key_hash=key_hash,
                changed=now,
                created=now,
            )
        )
        done = await tx.execute(
            update(token)
            .where(token.c.id == row.id, token.c.key_hash.is_(None))
            .values(key_hash=key_hash, host=host_id)
        )
        if done.rowcount != 1:
            raise AgentRefusedError("the enrolment token was used at this moment by another host")
    elif hmac.compare_digest(row.key_hash, key_hash):
        host_id = row.host
    else:
        raise AgentRefusedError("the enrolment token was used before: create a new one")
    return (await tx.execute(select(host).where(host.c.id == host_id))).one()
