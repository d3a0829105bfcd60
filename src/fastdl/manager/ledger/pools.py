# SPDX-License-Identifier: Apache-2.0
"""Pools, and which hosts may use them: what a host reports about a pool is a claim.

A pool belongs to the zone and to the host that first reported it without an error: that host
decides its name, type and path. Another host joins it if both call it shared and it proves that it
reads the same storage, or if an operator opened the pool (``why_not``). A claim that is not
accepted is recorded and has no other effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.ledger.tables import copy, host, host_pool, pool
from fastdl.wire import messages as m

OWNED_MAX: Final = 1024
"""Pools that one host may own, four times as many as fit in one report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a host's report. *usable*: pools it can write to now; *refused*: pool id → why its
    claim was not accepted, for new refusals only.
    """

    usable: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Link:
    error: str | None
    accepted: bool


def why_not(
    known: Mapping[str, Any], claimant: Row[Any], info: m.PoolInfo, *, held: bool, unproven: bool
) -> str | None:
    """Return why *claimant* may not have the pool *known* (a row) as in *info*; None = it may.

    *held*: it already has it. *unproven*: whether hosts of one cluster may join a shared pool
    without a proof (block storage).
    """
    if known["zone"] != claimant.zone:
        return "the pool belongs to another zone"
    proven = info.proof is not None and info.proof == known["proof"]
    strange = info.proof is not None and known["proof"] is not None and not proven
    if known["owner"] is None:
        new = known["proof"] is None or proven
        return None if new else "this host did not prove that it reads the storage of this id"
    if known["owner"] == claimant.id:
        return None
    if held:
        return "what it reaches under this id is another storage" if strange else None
    if not (known["shared"] and info.shared):
        return "the pool is another host's, and not shared"
    if known["open"] or proven:
        return None
    if known["proof"] is not None:
        return "the pool is another host's, and this host did not prove that it reads it"
    if unproven and known["cluster"] == claimant.cluster:
        return None
    return "the pool is another host's, and nothing proves that this host reaches it"


async def store(
    tx: AsyncConnection,
    found: Sequence[tuple[Row[Any], Sequence[m.PoolInfo]]],
    *,
    now: float,
    unproven: bool = True,
) -> dict[str, Outcome]:
    """Replace what is known of hosts' pools (no host twice); return host → outcome."""
    links = await _links(tx, [row.id for row, _ in found])
    known = await _known(tx, {p.id for _, infos in found for p in infos})
    owned = await _owned(tx, [row.id for row, _ in found])
    dropped: set[str] = set()
    new: dict[str, dict[str, Any]] = {}
    changed: dict[str, dict[str, Any]] = {}
    relinked: dict[str, dict[str, _Link]] = {}
    outcomes = {}
    for row, infos in found:
        before, kept, refused = links[row.id], dict[str, _Link](), dict[str, str]()
        for p in infos:
            if p.id not in known:
                if owned[row.id] >= OWNED_MAX:
                    refused[p.id] = f"the host owns {owned[row.id]} storage pools already"
                    continue
                owned[row.id] += 1
                known[p.id] = new[p.id] = {
                    "id": p.id,
                    "zone": row.zone,
                    "cluster": row.cluster,
                    "created": now,
                    "owner": None,
                    "open": False,
                    **_values(p),
                }
            old = before.get(p.id)
            held = old is not None and old.accepted
            if p.error is not None and not held:
                # It claims nothing yet, and an early report gives it no claim.
                kept[p.id] = _Link(error=p.error, accepted=False)
                continue
            objection = why_not(known[p.id], row, p, held=held, unproven=unproven)
            if objection is None:
                values = await _news(tx, known[p.id], row, p)
                known[p.id].update(values)
                if values and p.id not in new:
                    changed[p.id] = {"pool_id": p.id, **_stored(known[p.id])}
            elif old is None or old.accepted or old.error is not None:
                refused[p.id] = objection
            kept[p.id] = _Link(error=p.error, accepted=objection is None)
        if kept != before:
            relinked[row.id] = kept
            dropped |= {id_ for id_, link in before.items() if not link.accepted} - kept.keys()
        usable = (id_ for id_, link in kept.items() if link.accepted and link.error is None)
        outcomes[row.id] = Outcome(usable=frozenset(usable), refused=refused)
    if new:
        await tx.execute(insert(pool), list(new.values()))
    if changed:
        rows = [changed[id_] for id_ in sorted(changed)]
        await tx.execute(update(pool).where(pool.c.id == bindparam("pool_id")), rows)
    await _relink(tx, relinked)
    await _forget(tx, dropped)
    return outcomes


async def _news(
    tx: AsyncConnection, known: Mapping[str, Any], row: Row[Any], info: m.PoolInfo
) -> dict[str, Any]:
    """Return what an accepted report changes in the pool's row: nothing if the host cannot use it
    now, only capacity and free space if the host is not its owner.
    """
    if info.error is not None:
        return {}
    values: dict[str, Any] = {"capacity": info.capacity, "available": info.available}
    if known["owner"] in {None, row.id}:
        values |= _values(info) | {"owner": row.id}
        if info.proof is None:
            values["proof"] = known["proof"]
        if known["shared"] and not info.shared and await _others(tx, info.id, row.id):
            values["shared"] = True
    return {key: value for key, value in values.items() if known[key] != value}


def _values(p: m.PoolInfo) -> dict[str, Any]:
    return {
        "name": p.name,
        "type": p.type.value,
        "shared": p.shared,
        "path": p.path,
        "capacity": p.capacity,
        "available": p.available,
        "proof": p.proof,
    }


def _stored(known: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "type", "shared", "path", "capacity", "available", "proof", "owner")
    return {name: known[name] for name in names}


async def _links(tx: AsyncConnection, hosts: list[str]) -> dict[str, dict[str, _Link]]:
    links: dict[str, dict[str, _Link]] = {id_: {} for id_ in hosts}
    for row in await tx.execute(select(host_pool).where(host_pool.c.host.in_(hosts))):
        links[row.host][row.pool] = _Link(row.error, row.accepted)
    return links


async def _known(tx: AsyncConnection, ids: set[str]) -> dict[str, dict[str, Any]]:
    rows = await tx.execute(select(pool).where(pool.c.id.in_(ids))) if ids else ()
    return {row.id: dict(row._mapping) for row in rows}


async def _others(tx: AsyncConnection, pool_id: str, host_id: str) -> bool:
    """Whether a host other than *host_id* has the pool."""
    query = select(host_pool.c.host).where(
        host_pool.c.pool == pool_id, host_pool.c.accepted.is_(True), host_pool.c.host != host_id
    )
    return (await tx.scalar(query.limit(1))) is not None


async def _owned(tx: AsyncConnection, hosts: list[str]) -> Counter[str]:
    """Return how many pools each of *hosts* owns."""
    query = select(pool.c.owner, func.count()).where(pool.c.owner.in_(hosts))
    return Counter({row[0]: row[1] for row in await tx.execute(query.group_by(pool.c.owner))})


async def _forget(tx: AsyncConnection, ids: set[str]) -> None:
    """Delete the pools *ids* that no host has or had: they were only reported with an error."""
    if not ids:
        return
    await tx.execute(
        delete(pool).where(
            pool.c.id.in_(ids),
            pool.c.owner.is_(None),
            pool.c.open.is_(False),
            pool.c.id.not_in(select(host_pool.c.pool)),
            pool.c.id.not_in(select(copy.c.pool)),
        )
    )


async def _relink(tx: AsyncConnection, links: Mapping[str, Mapping[str, _Link]]) -> None:
    if not links:
        return
    await tx.execute(delete(host_pool).where(host_pool.c.host.in_(links.keys())))
    rows = [
        {"host": host_id, "pool": id_, "error": link.error, "accepted": link.accepted}
        for host_id, of_host in links.items()
        for id_, link in of_host.items()
    ]
    if rows:
        await tx.execute(insert(host_pool), rows)


async def usable(tx: AsyncConnection, host_id: str) -> frozenset[str]:
    """Return the pools that the host can write to now."""
    rows = await tx.execute(
        select(host_pool.c.pool).where(
            host_pool.c.host == host_id,
            host_pool.c.accepted.is_(True),
            host_pool.c.error.is_(None),
        )
    )
    return frozenset(rows.scalars())


async def usable_by(tx: AsyncConnection, hosts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return host → the pools that it can write to now."""
    rows = await tx.execute(
        select(host_pool.c.host, host_pool.c.pool).where(
            host_pool.c.host.in_(hosts),
            host_pool.c.accepted.is_(True),
            host_pool.c.error.is_(None),
        )
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.host, set()).add(row.pool)
    return {id_: frozenset(pools) for id_, pools in found.items()}


async def of_zone(tx: AsyncConnection, zone: str | None = None) -> list[Row[Any]]:
    """Return the pools of *zone* (or all), oldest first."""
    query = select(pool).order_by(pool.c.created, pool.c.id)
    if zone is not None:
        query = query.where(pool.c.zone == zone)
    return list(await tx.execute(query))


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the pool with this id."""
    return (await tx.execute(select(pool).where(pool.c.id == id_))).first()


async def hosts_of(tx: AsyncConnection, pool_id: str) -> list[str]:
    """Return the hosts that have the pool, whatever their state."""
    query = select(host_pool.c.host).where(
        host_pool.c.pool == pool_id, host_pool.c.accepted.is_(True)
    )
    return list((await tx.execute(query)).scalars())


async def claims(tx: AsyncConnection, ids: Iterable[str] | None = None) -> list[Row[Any]]:
    """Return the links (host, name, state, pool, error, accepted) of the pools *ids*, or of all."""
    query = select(
        host_pool.c.pool,
        host_pool.c.error,
        host_pool.c.accepted,
        host.c.id.label("host"),
        host.c.name,
        host.c.state,
    ).join(host, host.c.id == host_pool.c.host)
    if ids is not None:
        query = query.where(host_pool.c.pool.in_(list(ids)))
    return list(await tx.execute(query.order_by(host.c.name, host.c.id)))


async def set_open(tx: AsyncConnection, id_: str, *, open_: bool) -> None:
    """Let hosts of the pool's zone join it without a proof, or no longer."""
    await tx.execute(update(pool).where(pool.c.id == id_).values(open=open_))


async def remove(tx: AsyncConnection, id_: str) -> None:
    """Delete a pool, with what was known of copies there."""
    await tx.execute(delete(copy).where(copy.c.pool == id_))
    await tx.execute(delete(pool).where(pool.c.id == id_))


async def leave(tx: AsyncConnection, host_id: str) -> None:
    """Give the pools that *host_id* owns to other hosts that have them, before it is deleted.

    A pool that no other host has keeps its row and has no owner until a host reports it again.
    """
    heir = (
        select(func.min(host_pool.c.host))
        .where(
            host_pool.c.pool == pool.c.id,
            host_pool.c.accepted.is_(True),
            host_pool.c.host != host_id,
        )
        .scalar_subquery()
    )
    await tx.execute(update(pool).where(pool.c.owner == host_id).values(owner=heir))
