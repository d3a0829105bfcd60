# SPDX-License-Identifier: Apache-2.0
"""The one-time tokens by which hosts are enrolled, and which host a token's user becomes."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError
from fastdl.manager.ledger import hosts
from fastdl.manager.ledger.tables import host, token, zone
from fastdl.manager.ledger.text import new_id
from fastdl.wire.token import EnrolToken


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


async def add(
    tx: AsyncConnection,
    new: EnrolToken,
    *,
    zone_id: str,
    cluster: str,
    replaces: str | None,
    now: float,
    expires: float,
) -> None:
    """Store a token: its id and the hash of its secret."""
    await tx.execute(
        insert(token).values(
            id=new.id,
            zone=zone_id,
            cluster=cluster,
            secret_hash=_hash(new.secret),
            created=now,
            expires=expires,
            replaces=replaces,
        )
    )


async def of_zone(tx: AsyncConnection, zone_id: str | None = None) -> list[Row[Any]]:
    """Return the tokens of *zone_id* (or all), oldest first, with names of zone and host."""
    query = (
        select(token, zone.c.name.label("zone_name"), host.c.name.label("host_name"))
        .join(zone, zone.c.id == token.c.zone)
        .outerjoin(host, host.c.id == token.c.host)
    )
    if zone_id is not None:
        query = query.where(token.c.zone == zone_id)
    return list(await tx.execute(query.order_by(token.c.created, token.c.id)))


async def remove(tx: AsyncConnection, id_: str) -> bool:
    """Delete a token, which can then no longer be used. False = there is none."""
    return (await tx.execute(delete(token).where(token.c.id == id_))).rowcount == 1


async def prune(tx: AsyncConnection, *, before: float) -> None:
    """Delete tokens that expired before *before*."""
    await tx.execute(delete(token).where(token.c.expires < before))


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The host that a token's user became, as its row is now.

    *former_key*: hash of the key that was this host's until now. *namesake*: another host of the
    zone with the same name. *again*: the same key had already exchanged the token.
    """

    row: Row[Any]
    former_key: str | None = None
    namesake: Row[Any] | None = None
    again: bool = False


async def use(
    tx: AsyncConnection, shown: EnrolToken, *, key_hash: str, former: str, name: str, now: float
) -> Enrolled:
    """Exchange a token for a host whose key is that of *key_hash*. A refused token is not used up.

    The key that used a token may use it again, so that a lost response does not lock a host out. A
    machine that proves by its *former* key to be a host of the zone stays that host; one with a
    token made for a host becomes that host; any other becomes a new host. The host's earlier key is
    no longer valid. Raises AgentRefusedError for an unknown, expired or used token.
    """
    row = (await tx.execute(select(token).where(token.c.id == shown.id).with_for_update())).first()
    if row is None or not hmac.compare_digest(row.secret_hash, _hash(shown.secret)):
        raise AgentRefusedError("the enrolment token is unknown: create a new one")
    if row.expires < now:
        raise AgentRefusedError("the enrolment token has expired: create a new one")
    if row.key_hash is not None:
        known = await _of_key(tx, key_hash)
        if row.key_hash != key_hash or known is None or known.id != row.host:
            raise AgentRefusedError("the enrolment token has already been used: create a new one")
        return Enrolled(row=known, again=True)
    old = await _former(tx, row, former)
    if old is not None and old.key_hash == key_hash and row.replaces is not None:
        raise AgentRefusedError("a token created for a host requires a new key")
    namesake = None
    if old is None:
        namesake = await _namesake(tx, row.zone, name)
        host_id = new_id()
        await tx.execute(
            insert(host).values(
                id=host_id,
                zone=row.zone,
                cluster=row.cluster,
                name=name,
                state=hosts.CONNECTING,
                key_hash=key_hash,
                changed=now,
                created=now,
            )
        )
    else:
        host_id = old.id
        await tx.execute(
            update(host).where(host.c.id == host_id).values(key_hash=key_hash, ca_sha256=None)
        )
    used = update(token).where(token.c.id == row.id, token.c.key_hash.is_(None))
    done = await tx.execute(used.values(key_hash=key_hash, host=host_id))
    if done.rowcount != 1:
        raise AgentRefusedError("the enrolment token has just been used by another host")
    enrolled = await hosts.get(tx, host_id)
    assert enrolled is not None
    changed = old is not None and old.key_hash != key_hash
    former_key = old.key_hash if old is not None and changed else None
    return Enrolled(row=enrolled, former_key=former_key, namesake=namesake)


async def _former(tx: AsyncConnection, row: Row[Any], former: str) -> Row[Any] | None:
    """Return the host that the user of the unused token *row* is or becomes; None = a new one."""
    known = await _of_key(tx, former)
    if known is not None and row.replaces not in {None, known.id}:
        raise AgentRefusedError(
            f"this machine is enrolled as the host {known.name} and the token is for another one: "
            f"delete that host first, or start with an empty state folder"
        )
    if known is not None and known.zone != row.zone:
        raise AgentRefusedError(
            f"this machine is enrolled as the host {known.name} of another zone: delete it there "
            f"first"
        )
    id_ = known.id if known is not None else row.replaces
    return await hosts.locked(tx, id_) if id_ is not None else None


async def _of_key(tx: AsyncConnection, key_hash: str) -> Row[Any] | None:
    return (await tx.execute(select(host).where(host.c.key_hash == key_hash))).first()


async def _namesake(tx: AsyncConnection, zone_id: str, name: str) -> Row[Any] | None:
    query = select(host).where(host.c.zone == zone_id, host.c.name == name)
    return (await tx.execute(query.order_by(host.c.created.desc()).limit(1))).first()
