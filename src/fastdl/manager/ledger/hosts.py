# SPDX-License-Identifier: Apache-2.0
"""Hosts and the pools they reach, as they last reported themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import host, host_pool, pool
from fastdl.manager.ledger.text import dumps, loads
from fastdl.wire import messages as m

UP = "Up"
DOWN = "Down"
DISCONNECTED = "Disconnected"
ALERT = "Alert"


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the host with this id."""
    return (await tx.execute(select(host).where(host.c.id == id_))).first()


async def of_zone(tx: AsyncConnection, zone: str | None = None) -> list[Row[Any]]:
    """Return the hosts of *zone* (or all), oldest first."""
    query = select(host).order_by(host.c.created, host.c.id)
    if zone is not None:
        query = query.where(host.c.zone == zone)
    return list(await tx.execute(query))


async def set_state(
    tx: AsyncConnection, id_: str, state: str, *, now: float, gateway: str | None = None
) -> bool:
    """Store a transition; False = it was in that state already."""
    values: dict[str, Any] = {"state": state, "changed": now}
    if gateway is not None:
        values["gateway"] = gateway
    done = await tx.execute(
        update(host).where(host.c.id == id_, host.c.state != state).values(**values)
    )
    return done.rowcount == 1


async def set_key(tx: AsyncConnection, id_: str, *, key_hash: str, old: str) -> None:
    """Note the key of a renewed certificate; the *old* one stays good until it expires."""
    await tx.execute(
        update(host).where(host.c.id == id_).values(key_hash=key_hash, old_key_hash=old)
    )


async def store_hello(
    tx: AsyncConnection, hello: m.Hello, *, row: Row[Any], skew: float, now: float
) -> None:
    """Store who the host says it is, and its inventory."""
    await tx.execute(
        update(host)
        .where(host.c.id == row.id)
        .values(
            name=hello.name or row.name,
            address=hello.address,
            version=hello.version,
            kinds=dumps(hello.kinds),
            max_downloads=hello.max_downloads,
            clock_skew=skew,
        )
    )
    await store_inventory(tx, row, hello.inventory, now=now)


async def store_inventory(
    tx: AsyncConnection, row: Row[Any], inventory: m.Inventory, *, now: float
) -> None:
    """Replace what is known of the host's pools and keystore."""
    await store_keystore(tx, row.id, inventory.certificates, error=inventory.keystore_error)
    await _store_pools(tx, row, inventory.pools, now=now)


async def store_keystore(
    tx: AsyncConnection,
    host_id: str,
    certificates: Iterable[m.CertificateInfo],
    *,
    error: str | None = None,
) -> None:
    """Replace what is known of the keystore; with *error* its content stays as last known."""
    held = {c.alias.casefold(): {"sha256": c.sha256, "until": c.not_after} for c in certificates}
    values = {"keystore_error": error} | ({} if error else {"keystore": dumps(held)})
    await tx.execute(update(host).where(host.c.id == host_id).values(**values))


def keystore_of(row: Row[Any]) -> dict[str, str] | None:
    """Return alias → fingerprint as the host last reported, None while it cannot be read."""
    if row.keystore_error is not None:
        return None
    return {alias: entry["sha256"] for alias, entry in loads(row.keystore).items()}


async def _store_pools(
    tx: AsyncConnection, row: Row[Any], found: Sequence[m.PoolInfo], *, now: float
) -> None:
    ids = [p.id for p in found]
    known = {r.id: r for r in await tx.execute(select(pool).where(pool.c.id.in_(ids)))}
    linked = {
        r.pool: r for r in await tx.execute(select(host_pool).where(host_pool.c.host == row.id))
    }
    kept = []
    for p in found:
        old = known.get(p.id)
        # A pool belongs to the zone that named it first: a host elsewhere cannot claim it.
        if old is not None and old.zone != row.zone:
            continue
        if old is not None and not old.shared and p.id not in linked and await _is_linked(tx, p.id):
            continue  # another host's local pool
        kept.append(p)
        values = {
            "name": p.name, "type": p.type.value, "shared": p.shared, "path": p.path,
            "capacity": p.capacity, "available": p.available,
        }  # fmt: skip
        if old is None:
            await tx.execute(
                insert(pool).values(
                    id=p.id, zone=row.zone, cluster=row.cluster, created=now, **values
                )
            )
        elif any(getattr(old, key) != value for key, value in values.items()):
            await tx.execute(update(pool).where(pool.c.id == p.id).values(**values))
    errors = {p.id: p.error for p in kept}
    if errors != {id_: r.error for id_, r in linked.items()}:
        await tx.execute(delete(host_pool).where(host_pool.c.host == row.id))
        if errors:
            await tx.execute(
                insert(host_pool),
                [{"host": row.id, "pool": id_, "error": error} for id_, error in errors.items()],
            )


async def _is_linked(tx: AsyncConnection, pool_id: str) -> bool:
    query = select(host_pool.c.host).where(host_pool.c.pool == pool_id).limit(1)
    return (await tx.scalar(query)) is not None


async def usable_pools(tx: AsyncConnection, host_id: str) -> frozenset[str]:
    """Return the pools that the host can write to now."""
    rows = await tx.execute(
        select(host_pool.c.pool).where(host_pool.c.host == host_id, host_pool.c.error.is_(None))
    )
    return frozenset(rows.scalars())


async def pools_of_zone(tx: AsyncConnection, zone: str | None = None) -> list[Row[Any]]:
    """Return the pools of *zone* (or all), oldest first."""
    query = select(pool).order_by(pool.c.created, pool.c.id)
    if zone is not None:
        query = query.where(pool.c.zone == zone)
    return list(await tx.execute(query))


async def get_pool(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the pool with this id."""
    return (await tx.execute(select(pool).where(pool.c.id == id_))).first()


async def hosts_of_pool(tx: AsyncConnection, pool_id: str) -> list[str]:
    """Return the hosts that reported the pool, whatever their state."""
    rows = await tx.execute(select(host_pool.c.host).where(host_pool.c.pool == pool_id))
    return list(rows.scalars())


async def all_lost(tx: AsyncConnection, *, gateway: str, now: float) -> None:
    """At the start of a manager: no host is connected to it yet."""
    await tx.execute(
        update(host)
        .where(host.c.state.in_((UP, ALERT)), host.c.gateway.in_((gateway, "")))
        .values(state=DISCONNECTED, changed=now)
    )
