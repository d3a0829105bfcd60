# SPDX-License-Identifier: Apache-2.0
"""How is the ledger reconciled with the contents of a pool?

The ledger is compared with the pool's own markers: fences never lag behind them, copies unknown to
a restored ledger are found again, unneeded ones are listed, and a changed or missing one is
reported once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.events import Event
from fastdl.manager.ledger import copies, job_list, templates
from fastdl.wire import messages as m

FENCE_MAX: Final = 1 << 53
"""Higher fences are refused: they would leave no room for later ones."""
_LOST: Final = frozenset({"absent", "foreign"})


async def record(
    tx: AsyncConnection,
    pool: Row[Any],
    found: Sequence[m.CopyInfo],
    *,
    asked: float,
    now: float,
    whole: bool,
) -> list[Event]:
    """Store what was *found* in *pool*, requested at *asked*; return the events.

    *whole*: what is not in it is not in the pool.
    """
    rows = {row.volume: row for row in await copies.on_pool(tx, pool.id)}
    events: list[Event] = []
    for info in found:
        row = rows.get(info.volume)
        if row is None:
            await _found(tx, pool, info, now=now)
        elif row.updated < asked and not await _under_way(tx, row):
            events += await _compared(tx, row, info, now=now)
        else:
            await _fence(tx, row, info, now=row.updated)
    listed = {info.volume for info in found}
    for row in rows.values():
        if not whole or row.volume in listed or row.updated >= asked or await _under_way(tx, row):
            continue
        if row.state == copies.ORPHAN:
            await copies.forget(tx, copies.key_of(row))
        elif row.state == copies.READY:
            events += await _gone(tx, row, "nothing is known of it there any more", now=now)
    return events


async def _under_way(tx: AsyncConnection, row: Row[Any]) -> bool:
    key = copies.key_of(row)
    return bool(await job_list.live_download(tx, key) or await job_list.live_removal(tx, key))


async def _fence(tx: AsyncConnection, row: Row[Any], info: m.CopyInfo, *, now: float) -> None:
    if row.fence < info.fence <= FENCE_MAX:
        await copies.change(tx, copies.key_of(row), now=now, fence=info.fence)


async def _found(tx: AsyncConnection, pool: Row[Any], info: m.CopyInfo, *, now: float) -> None:
    """Add a copy that the ledger does not know: of a template that has none here, or of none."""
    live = None
    if info.template and info.zone == pool.zone and info.complete and info.state == "intact":
        known = await templates.get(tx, info.template)
        offered = known is not None and pool.zone in await templates.zones_of(tx, known.id)
        if offered and not await copies.of_live(tx, info.template, pool.id):
            live = info.template
    await copies.add(
        tx,
        pool=pool.id,
        volume=info.volume,
        template=info.template or None,
        live=live,
        zone=info.zone,
        state=copies.READY if live else copies.ORPHAN,
        complete=info.complete,
        fence=min(info.fence, FENCE_MAX),
        install_path=info.install_path,
        size=info.virtual_size,
        bytes=info.bytes,
        users=info.users,
        note=info.why,
        now=now,
    )


async def _compared(
    tx: AsyncConnection, row: Row[Any], info: m.CopyInfo, *, now: float
) -> list[Event]:
    key = copies.key_of(row)
    await _fence(tx, row, info, now=now)
    if row.state == copies.READY and info.state in _LOST:
        return await _gone(tx, row, info.why or "it is not there any more", now=now)
    values: dict[str, Any] = {"users": info.users}
    if row.state == copies.ABSENT and info.complete and info.state == "intact":
        values |= {
            "state": copies.READY,
            "complete": True,
            "install_path": info.install_path,
            "size": info.virtual_size,
            "bytes": info.bytes,
            "note": "",
        }
    elif row.state in {copies.READY, copies.ORPHAN}:
        values["note"] = info.why
    await copies.change(tx, key, now=now, **values)
    if row.state != copies.READY or info.why in {"", row.note}:
        return []
    return [await _event(tx, row, "TEMPLATE.COPY.CHANGED", f"was changed: {info.why}")]


async def _gone(tx: AsyncConnection, row: Row[Any], why: str, *, now: float) -> list[Event]:
    await copies.change(
        tx,
        copies.key_of(row),
        now=now,
        state=copies.ABSENT,
        complete=False,
        install_path="",
        note=why,
        users=(),
    )
    return [await _event(tx, row, "TEMPLATE.COPY.GONE", f"was lost: {why}")]


async def _event(tx: AsyncConnection, row: Row[Any], type_: str, what: str) -> Event:
    names = await copies.template_names(tx, [row.template] if row.template else [])
    text = f"the copy of {names.get(row.template, row.volume)} on pool {row.pool} {what}"
    return Event(type=type_, description=text, level="WARN", resource=row.template)
