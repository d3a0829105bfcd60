# SPDX-License-Identifier: Apache-2.0
"""Hosts and the pools they reach, as they last reported themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import host, host_pool, pool, zone
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A host that connected: who TLS proved it is, with which key, and its Hello."""

    host: str
    key_hash: str
    hello: m.Hello
    skew: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An arrival that was let in. *row*: the host's, as it was before, and its ``zone_name``."""

    row: Row[Any]
    pools: frozenset[str]


async def arrive(
    tx: AsyncConnection, arrivals: Sequence[Arrival], *, gateway: str, now: float
) -> list[Admitted | None]:
    """Take in hosts that connected: who they say they are, their inventory, state Up.

    Returns one answer an arrival; None = not enrolled, or not with this key. Of a host that
    comes twice, the later Hello is kept.
    """
    query = select(host, zone.c.name.label("zone_name")).join(zone, zone.c.id == host.c.zone)
    query = query.where(host.c.id.in_({a.host for a in arrivals})).order_by(host.c.id)
    rows = {row.id: row for row in await tx.execute(query.with_for_update(of=host))}
    known = [
        a
        for a in arrivals
        if (row := rows.get(a.host)) is not None and a.key_hash in {row.key_hash, row.old_key_hash}
    ]
    latest = {a.host: a for a in known}
    if latest:
        values = [_arrived(rows[a.host], a, gateway=gateway, now=now) for a in latest.values()]
        await tx.execute(update(host).where(host.c.id == bindparam("host_id")), values)
    found = [(rows[a.host], a.hello.inventory.pools) for a in latest.values()]
    pools = await store_pools(tx, found, now=now)
    let_in = {id(a) for a in known}
    return [
        Admitted(row=rows[a.host], pools=pools[a.host]) if id(a) in let_in else None
        for a in arrivals
    ]


def _arrived(row: Row[Any], arrival: Arrival, *, gateway: str, now: float) -> dict[str, Any]:
    hello = arrival.hello
    error = hello.inventory.keystore_error
    return {
        "host_id": row.id,
        "name": hello.name or row.name,
        "address": hello.address,
        "version": hello.version,
        "kinds": dumps(hello.kinds),
        "max_downloads": hello.max_downloads,
        "clock_skew": arrival.skew,
        # Whatever was known: a host that lost its memory numbers its looks from the start.
        "looked": hello.inventory.looked,
        "keystore_error": error,
        "keystore": row.keystore if error else _keystore(hello.inventory.certificates),
        "state": UP,
        "changed": row.changed if row.state == UP else now,
        "gateway": row.gateway if row.state == UP else gateway,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A host whose connection ended or fell silent, and the state that it has then."""

    host: str
    state: str


async def depart(tx: AsyncConnection, departures: Sequence[Departure], *, now: float) -> list[bool]:
    """Store the transitions of *departures* (no host twice); False = it was so already."""
    wanted = {d.host: d.state for d in departures}
    query = select(host.c.id, host.c.state).where(host.c.id.in_(wanted)).order_by(host.c.id)
    found = {row.id: row.state for row in await tx.execute(query.with_for_update())}
    values = [
        {"host_id": id_, "state": wanted[id_], "changed": now}
        for id_, state in found.items()
        if state != wanted[id_]
    ]
    if values:
        await tx.execute(update(host).where(host.c.id == bindparam("host_id")), values)
    return [d.host in found and found[d.host] != d.state for d in departures]


async def store_inventory(
    tx: AsyncConnection, row: Row[Any], inventory: m.Inventory, *, now: float
) -> frozenset[str] | None:
    """Replace what is known of the host's pools and keystore; return the usable pools.

    While the keystore cannot be read its content stays as last known. None = the host looked
    before what is known already: nothing was done (it sends another after every change).
    """
    values: dict[str, Any] = {
        "keystore_error": inventory.keystore_error, "looked": inventory.looked
    }  # fmt: skip
    if inventory.keystore_error is None:
        values["keystore"] = _keystore(inventory.certificates)
    later = (host.c.id == row.id) & (host.c.looked <= inventory.looked)
    done = await tx.execute(update(host).where(later).values(**values))
    if not done.rowcount:
        return None
    return (await store_pools(tx, [(row, inventory.pools)], now=now))[row.id]


async def store_keystores(tx: AsyncConnection, found: Mapping[str, m.CertificatesDone]) -> None:
    """Replace what is known of hosts' keystores, where nothing later is known."""
    values = [
        {
            "host_id": host_id, "keystore_error": None, "keystore": _keystore(done.certificates),
            "looked": done.looked, "seen": done.looked,
        }
        for host_id, done in sorted(found.items())
    ]  # fmt: skip
    later = (host.c.id == bindparam("host_id")) & (host.c.looked <= bindparam("seen"))
    if values:
        await tx.execute(update(host).where(later), values)


def _keystore(certificates: Iterable[m.CertificateInfo]) -> str:
    return dumps({
        c.alias.casefold(): {"sha256": c.sha256, "until": c.not_after} for c in certificates
    })  # fmt: skip


def keystore_of(row: Row[Any]) -> dict[str, str] | None:
    """Return alias → fingerprint as the host last reported, None while it cannot be read."""
    if row.keystore_error is not None:
        return None
    return {alias: entry["sha256"] for alias, entry in loads(row.keystore).items()}


async def store_pools(
    tx: AsyncConnection, found: Sequence[tuple[Row[Any], Sequence[m.PoolInfo]]], *, now: float
) -> dict[str, frozenset[str]]:
    """Replace what is known of hosts' pools (no host twice); return host → usable pools.

    A pool belongs to the zone that named it first, and one that is not shared to the host that
    did: others cannot claim it.
    """
    links = await _links(tx, [row.id for row, _ in found])
    known = await _known_pools(tx, {p.id for _, infos in found for p in infos})
    strange = {
        p.id
        for row, infos in found
        for p in infos
        if p.id in known and not known[p.id]["shared"] and p.id not in links[row.id]
    }
    taken = await _linked(tx, strange)
    new: dict[str, dict[str, Any]] = {}
    changed: dict[str, dict[str, Any]] = {}
    relinked: dict[str, dict[str, str | None]] = {}
    usable = {}
    for row, infos in found:
        kept: dict[str, str | None] = {}
        for p in infos:
            old = known.get(p.id)
            if old is not None and old["zone"] != row.zone:
                continue
            if old is not None and not old["shared"] and p.id in taken - links[row.id].keys():
                continue
            kept[p.id] = p.error
            values = _pool_values(p)
            if old is None:
                known[p.id] = new[p.id] = {
                    "id": p.id, "zone": row.zone, "cluster": row.cluster, "created": now, **values
                }  # fmt: skip
            elif any(old[key] != value for key, value in values.items()):
                old.update(values)
                if p.id not in new:
                    changed[p.id] = {"pool_id": p.id, **values}
            taken.add(p.id)
        if kept != links[row.id]:
            relinked[row.id] = kept
        usable[row.id] = frozenset(id_ for id_, error in kept.items() if error is None)
    if new:
        await tx.execute(insert(pool), list(new.values()))
    if changed:
        rows = [changed[id_] for id_ in sorted(changed)]
        await tx.execute(update(pool).where(pool.c.id == bindparam("pool_id")), rows)
    await _relink(tx, relinked)
    return usable


def _pool_values(p: m.PoolInfo) -> dict[str, Any]:
    return {
        "name": p.name, "type": p.type.value, "shared": p.shared, "path": p.path,
        "capacity": p.capacity, "available": p.available,
    }  # fmt: skip


async def _links(tx: AsyncConnection, hosts: list[str]) -> dict[str, dict[str, str | None]]:
    links: dict[str, dict[str, str | None]] = {id_: {} for id_ in hosts}
    for row in await tx.execute(select(host_pool).where(host_pool.c.host.in_(hosts))):
        links[row.host][row.pool] = row.error
    return links


async def _known_pools(tx: AsyncConnection, ids: set[str]) -> dict[str, dict[str, Any]]:
    rows = await tx.execute(select(pool).where(pool.c.id.in_(ids))) if ids else ()
    return {row.id: dict(row._mapping) for row in rows}


async def _linked(tx: AsyncConnection, ids: set[str]) -> set[str]:
    if not ids:
        return set()
    query = select(host_pool.c.pool).distinct().where(host_pool.c.pool.in_(ids))
    return set((await tx.execute(query)).scalars())


async def _relink(tx: AsyncConnection, pools: Mapping[str, Mapping[str, str | None]]) -> None:
    if not pools:
        return
    await tx.execute(delete(host_pool).where(host_pool.c.host.in_(pools.keys())))
    rows = [
        {"host": host_id, "pool": id_, "error": error}
        for host_id, errors in pools.items()
        for id_, error in errors.items()
    ]
    if rows:
        await tx.execute(insert(host_pool), rows)


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
