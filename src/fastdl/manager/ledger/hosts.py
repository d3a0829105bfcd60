# SPDX-License-Identifier: Apache-2.0
"""Hosts: which are enrolled, their states, and what they last reported about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger import pools
from fastdl.manager.ledger.jobs import HELD, State
from fastdl.manager.ledger.tables import host, job, zone
from fastdl.manager.ledger.text import dumps, loads
from fastdl.trust.alias import fold
from fastdl.wire import messages as m

CONNECTING = "Connecting"
UP = "Up"
DOWN = "Down"
DISCONNECTED = "Disconnected"
ALERT = "Alert"
REMOVED = "Removed"

ENABLED = "Enabled"
DISABLED = "Disabled"
"""Gets no new downloads; copies are still removed there."""
PREPARING = "PrepareForMaintenance"
"""Gets nothing new; what runs there continues to its end."""
MAINTENANCE = "Maintenance"
PART: Final = 200
"""Hosts in one statement."""
_LOCK: Final = (
    select(host.c.id)
    .where(host.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(host.c.id)
    .with_for_update()
)
DRAINED: Final = (m.Kind.DOWNLOAD, m.Kind.REMOVE, m.Kind.MACHINE)
"""What maintenance waits for; certificates and requests are a matter of seconds."""


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the host with this id."""
    return (await tx.execute(select(host).where(host.c.id == id_))).first()


async def by_id(tx: AsyncConnection, ids: Iterable[str]) -> dict[str, Row[Any]]:
    """Return the hosts with these ids."""
    wanted, found = sorted(set(ids)), dict[str, Row[Any]]()
    for start in range(0, len(wanted), 500):
        rows = await tx.execute(select(host).where(host.c.id.in_(wanted[start : start + 500])))
        found |= {row.id: row for row in rows}
    return found


async def of_zone(tx: AsyncConnection, zone: str | None = None) -> list[Row[Any]]:
    """Return the hosts of *zone* (or all), oldest first."""
    query = select(host).order_by(host.c.created, host.c.id)
    if zone is not None:
        query = query.where(host.c.zone == zone)
    return list(await tx.execute(query))


async def set_state(
    tx: AsyncConnection, id_: str, state: str, *, now: float, gateway: str | None = None
) -> bool:
    """Store a transition; False = it was already in that state."""
    values: dict[str, Any] = {"state": state, "changed": now}
    if gateway is not None:
        values["gateway"] = gateway
    done = await tx.execute(
        update(host).where(host.c.id == id_, host.c.state != state).values(**values)
    )
    return done.rowcount == 1


async def locked(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the host with this id, locked until *tx* ends."""
    return (await tx.execute(select(host).where(host.c.id == id_).with_for_update())).first()


async def change(
    tx: AsyncConnection,
    id_: str,
    *,
    name: str | None = None,
    resource_state: str | None = None,
    tags: Sequence[str] | None = None,
) -> None:
    """Store what an operator sets on a host. A *name* given here overrides the host's own."""
    values: dict[str, Any] = {}
    if name is not None:
        values |= {"name": name, "renamed": True}
    if resource_state is not None:
        values["resource_state"] = resource_state
    if tags is not None:
        values["tags"] = dumps(list(tags))
    if values:
        await tx.execute(update(host).where(host.c.id == id_).values(**values))


async def remove(tx: AsyncConnection, id_: str) -> None:
    """Delete a host with its tokens, and what was wanted and known of it. The caller requeues its
    jobs first; its pools stay.
    """
    await pools.leave(tx, id_)
    await tx.execute(delete(host).where(host.c.id == id_))


async def keys(tx: AsyncConnection, ids: Iterable[str] | None = None) -> dict[str, str]:
    """Return host → hash of the key that proves its identity, of every enrolled host, or of those
    of *ids*, a few, that are enrolled."""
    query = select(host.c.id, host.c.key_hash)
    if ids is not None:
        query = query.where(host.c.id.in_(sorted(ids)))
    return {row.id: row.key_hash for row in await tx.execute(query)}


async def whereabouts(tx: AsyncConnection) -> list[Row[Any]]:
    """Return state, gateway, document revision and resource state of every host."""
    columns = (host.c.id, host.c.state, host.c.gateway, host.c.rev, host.c.resource_state)
    return list(await tx.execute(select(*columns)))


async def details(tx: AsyncConnection, ids: Iterable[str]) -> list[tuple[Row[Any], frozenset[str]]]:
    """Return (row, the pools that it can write to now) of those of *ids* that are Up."""
    wanted, found = sorted(ids), list[tuple[Row[Any], frozenset[str]]]()
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        rows = await tx.execute(select(host).where(host.c.id.in_(part), host.c.state == UP))
        usable = await pools.usable_by(tx, part)
        found += [(row, usable.get(row.id, frozenset())) for row in rows]
    return found


async def orphaned(tx: AsyncConnection, alive: Iterable[str]) -> list[Row[Any]]:
    """Return the hosts that are not Down, and whose manager is none of *alive*."""
    states = (UP, ALERT, DISCONNECTED)
    query = select(host.c.id, host.c.state, host.c.gateway)
    query = query.where(host.c.state.in_(states), host.c.gateway.not_in(sorted(alive)))
    return list(await tx.execute(query.order_by(host.c.id)))


async def draining(tx: AsyncConnection) -> bool:
    """Whether any host prepares for maintenance."""
    query = select(host.c.id).where(host.c.resource_state == PREPARING).limit(1)
    return (await tx.scalar(query)) is not None


async def end_drains(tx: AsyncConnection) -> list[Row[Any]]:
    """Put hosts that prepare for maintenance and hold no more work into maintenance; return their
    rows as they were.
    """
    busy = select(job.c.id).where(
        job.c.host == host.c.id,
        job.c.state.in_((*HELD, State.CANCELLING)),
        job.c.kind.in_(DRAINED),
    )
    query = select(host).where(host.c.resource_state == PREPARING, ~busy.exists())
    rows = list(await tx.execute(query.order_by(host.c.id).with_for_update()))
    for row in rows:
        await change(tx, row.id, resource_state=MAINTENANCE)
    return rows


async def lock(tx: AsyncConnection, ids: Iterable[str]) -> None:
    """Lock hosts until *tx* ends. Whoever changes jobs that several of them hold does so first, so
    that no two transactions wait for each other."""
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), PART):
        await tx.execute(_LOCK, {"ids": wanted[start : start + PART]})


async def taking(tx: AsyncConnection, ids: Iterable[str]) -> dict[str, str]:
    """Return id → resource state of those of *ids* that are Up, locked until *tx* ends."""
    query = select(host.c.id, host.c.resource_state)
    query = query.where(host.c.id.in_(sorted(ids)), host.c.state == UP)
    rows = await tx.execute(query.order_by(host.c.id).with_for_update())
    return {row.id: row.resource_state for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A host that connected: the identity and key that TLS proved, and its Hello."""

    host: str
    key_hash: str
    hello: m.Hello
    skew: float
    ca: str | None = None
    """The newest CA's fingerprint, if the host trusts it and has a certificate issued by it."""
    until: float | None = None
    """When its certificate expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An admitted arrival. *row*: the host's, as it was before, and its ``zone_name``."""

    row: Row[Any]
    pools: pools.Outcome


async def arrive(
    tx: AsyncConnection,
    arrivals: Sequence[Arrival],
    *,
    gateway: str,
    now: float,
    unproven: bool = True,
) -> list[Admitted | None]:
    """Record hosts that connected: their Hello, their inventory, state Up. *unproven*: as in
    ``pools.why_not``.

    Returns one result per arrival; None = not enrolled, or not with this key. If a host connects
    twice, the later Hello is kept.
    """
    query = select(host, zone.c.name.label("zone_name")).join(zone, zone.c.id == host.c.zone)
    query = query.where(host.c.id.in_({a.host for a in arrivals})).order_by(host.c.id)
    rows = {row.id: row for row in await tx.execute(query.with_for_update(of=host))}
    known = [
        a for a in arrivals if (row := rows.get(a.host)) is not None and a.key_hash == row.key_hash
    ]
    latest = {a.host: a for a in known}
    if latest:
        values = [_arrived(rows[a.host], a, gateway=gateway, now=now) for a in latest.values()]
        await tx.execute(update(host).where(host.c.id == bindparam("host_id")), values)
    found = [(rows[a.host], a.hello.inventory.pools) for a in latest.values()]
    outcomes = await pools.store(tx, found, now=now, unproven=unproven)
    let_in = {id(a) for a in known}
    return [
        Admitted(row=rows[a.host], pools=outcomes[a.host]) if id(a) in let_in else None
        for a in arrivals
    ]


def _arrived(row: Row[Any], arrival: Arrival, *, gateway: str, now: float) -> dict[str, Any]:
    hello = arrival.hello
    error = hello.inventory.keystore_error
    return {
        "host_id": row.id,
        "name": row.name if row.renamed else hello.name or row.name,
        "address": hello.address,
        "version": hello.version,
        "arch": hello.arch,
        "kinds": dumps(hello.kinds),
        "max_downloads": hello.max_downloads,
        "clock_skew": arrival.skew,
        "ca_sha256": arrival.ca,
        "certified_until": arrival.until,
        # Whatever revision was known: a host that lost its state counts from the start again.
        "keystore_revision": hello.inventory.keystore_revision,
        "keystore_error": error,
        "keystore": row.keystore if error else _keystore(hello.inventory.certificates),
        "state": UP,
        "changed": row.changed if row.state == UP else now,
        "gateway": gateway,
        "machine_pools": dumps(sorted(hello.inventory.machine_pools)),
    }


async def certified(tx: AsyncConnection, id_: str, *, until: float) -> None:
    """Note that a host has a new certificate."""
    await tx.execute(update(host).where(host.c.id == id_).values(certified_until=until))


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A host whose connection ended or fell silent, and its new state."""

    host: str
    state: str


async def depart(
    tx: AsyncConnection, departures: Sequence[Departure], *, gateway: str, now: float
) -> list[bool]:
    """Store the transitions of *departures* (no host twice) from *gateway*; False = already in that
    state, or connected to another manager since."""
    wanted = {d.host: d.state for d in departures}
    here = host.c.id.in_(wanted) & host.c.gateway.in_((gateway, ""))
    query = select(host.c.id, host.c.state).where(here).order_by(host.c.id)
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
    tx: AsyncConnection,
    row: Row[Any],
    inventory: m.Inventory,
    *,
    gateway: str,
    now: float,
    unproven: bool = True,
) -> pools.Outcome | None:
    """Replace what is known of the host's pools and keystore; return the outcome for the pools.

    While the keystore cannot be read its content stays as last known. None = a later revision is
    already known, or the host has connected to another manager than *gateway* since, and said
    there what it has: nothing was done (the host reports after every change).
    """
    values: dict[str, Any] = {
        "keystore_error": inventory.keystore_error,
        "keystore_revision": inventory.keystore_revision,
        "machine_pools": dumps(sorted(inventory.machine_pools)),
    }
    if inventory.keystore_error is None:
        values["keystore"] = _keystore(inventory.certificates)
    later = (
        (host.c.id == row.id)
        & (host.c.gateway == gateway)
        & (host.c.keystore_revision <= inventory.keystore_revision)
    )
    done = await tx.execute(update(host).where(later).values(**values))
    if not done.rowcount:
        return None
    found = [(row, inventory.pools)]
    return (await pools.store(tx, found, now=now, unproven=unproven))[row.id]


async def store_keystores(tx: AsyncConnection, found: Mapping[str, m.CertificatesDone]) -> None:
    """Replace what is known of hosts' keystores, unless something later is known."""
    values = [
        {
            "host_id": host_id,
            "keystore_error": None,
            "keystore": _keystore(done.certificates),
            "keystore_revision": done.keystore_revision,
            "seen": done.keystore_revision,
        }
        for host_id, done in sorted(found.items())
    ]
    later = (host.c.id == bindparam("host_id")) & (host.c.keystore_revision <= bindparam("seen"))
    if values:
        await tx.execute(update(host).where(later), values)


def _keystore(certificates: Iterable[m.CertificateInfo]) -> str:
    return dumps({fold(c.alias): {"sha256": c.sha256, "until": c.not_after} for c in certificates})


def keystore_of(row: Row[Any]) -> dict[str, str] | None:
    """Return alias → fingerprint as the host last reported, None while it cannot be read."""
    if row.keystore_error is not None:
        return None
    return {alias: entry["sha256"] for alias, entry in loads(row.keystore).items()}


async def all_lost(tx: AsyncConnection, *, gateways: Iterable[str], now: float) -> None:
    """Note that no host is connected to these managers: they start, or are gone."""
    await tx.execute(
        update(host)
        .where(host.c.state.in_((UP, ALERT)), host.c.gateway.in_(sorted(gateways)))
        .values(state=DISCONNECTED, changed=now)
    )
