# SPDX-License-Identifier: Apache-2.0
"""What happens when results of downloads, removals and audits arrive, many at once?

Thousands of hosts finish the same template within moments. What all of them need - a job done, its
slots free, its copy ready, an event - takes one statement for all; only what is rare takes its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.downloads import results, scheduler
from fastdl.manager.downloads.results import Ended, Reaching, Terms
from fastdl.manager.events import Event
from fastdl.manager.ledger import copies, ends, jobs, records, slots, templates
from fastdl.manager.ledger.ends import Claim
from fastdl.manager.ledger.jobs import State
from fastdl.manager.ledger.values import Slot
from fastdl.wire import codec
from fastdl.wire import messages as m

Reports = Sequence[tuple[str, m.JobResult]]
"""(host, what it reports)."""
Done = tuple[Row[Any], m.DownloadDone, str]
"""(a job's row, its result, the same in JSON)."""


async def record(
    tx: AsyncConnection, reports: Reports, *, reaching: Reaching, terms: Terms
) -> list[Ended | None]:
    """Record results; return what became of each, None = stale, nothing done.

    *reaching*: where a failed job might go next. The caller stores the events in the same
    transaction.
    """
    claims = [
        Claim(host=host, job=result.job, fence=result.fence, kind=result.kind)
        for host, result in reports
    ]
    rows, caps = await ends.held(tx, claims)
    reported = [result for _, result in reports]
    downloads = [
        (row, result.done, codec.done_to_json(result.done))
        for row, result in zip(rows, reported, strict=True)
        if row is not None and isinstance(result.done, m.DownloadDone)
    ]
    ended = {row.id for row in rows if row is not None}
    if len(ended) > len(downloads):  # the others complete API jobs one after the other
        await records.lock_api_jobs(tx, ended)
    events = await _downloaded(tx, downloads, caps, terms) if downloads else {}
    answers: list[Ended | None] = []
    for row, result in zip(rows, reported, strict=True):
        if row is None:
            answers.append(None)
        elif row.id in events:
            answers.append(Ended(State.DONE, row, events[row.id]))
        else:
            answers.append(await results.record(tx, row, result, reaching=reaching, terms=terms))
    return answers


async def _downloaded(
    tx: AsyncConnection,
    downloads: Sequence[Done],
    caps: Mapping[Slot, int | None],
    terms: Terms,
) -> dict[str, list[Event]]:
    """Record downloads that succeeded; return the events of each job."""
    now, rows = terms.now, [row for row, _, _ in downloads]
    await ends.done(tx, [(row, text) for row, _, text in downloads], now=now)
    await _adapt(tx, rows, caps, most=terms.origin_most)
    found = await copies.locked(tx, [copies.key_of(row) for row in rows if row.volume])
    here = [
        (found[key], done, text)
        for row, done, text in downloads
        if (key := copies.key_of(row)) in found
    ]
    await copies.fetched(tx, here, now=now)
    await results.complete_api_jobs(tx, {row.id for row in rows}, now=now)
    ids = {row.template for row in rows if row.template}
    offers = await templates.offers(tx, ids)
    for row in rows:
        copy = found.get(copies.key_of(row))
        unwanted = (row.template, row.zone) not in offers
        if copy is not None and (unwanted or copy.state == copies.REMOVING):
            await results.remove_late(tx, row, now=now)
    known = await templates.of_ids(tx, ids)
    # By template, whose rows may change: two managers must not lock them in different orders.
    by_template = sorted(downloads, key=lambda one: one[0].template or "")
    return {row.id: await _events(tx, row, done, known) for row, done, _ in by_template}


async def _adapt(
    tx: AsyncConnection, rows: Sequence[Row[Any]], caps: Mapping[Slot, int | None], *, most: int
) -> None:
    """Raise the caps of origins that served these downloads."""
    raised = dict(caps)
    for row in rows:
        for slot in jobs.held_slots(row):
            if slot[0] == "origin" and (cap := raised.get(slot)) is not None:
                raised[slot] = scheduler.adapt(cap, most=most, overloaded=False)
    for slot in sorted(raised):
        if raised[slot] != caps[slot]:
            await slots.set_cap(tx, slot, raised[slot])


async def _events(
    tx: AsyncConnection, row: Row[Any], done: m.DownloadDone, known: dict[str, Row[Any]]
) -> list[Event]:
    """The events of a download that succeeded. *known*: templates as they are now."""
    if (template := known.get(row.template)) is None:
        return []
    kind, level, about = "ISO" if template.iso else "TEMPLATE", "INFO", template.id
    text = f"{template.name} is on pool {row.pool} (integrity: {done.integrity})"
    type_ = f"{kind}.DIRECT.DOWNLOAD.SUCCESS"
    found = [Event(type=type_, description=text, level=level, resource=about)]
    if done.replaced:
        text = f"the copy of {template.name} on pool {row.pool} was replaced: {done.replaced}"
        type_, level = "TEMPLATE.COPY.REPLACED", "WARN"
        found.append(Event(type=type_, description=text, level=level, resource=about))
    digests = dict(done.digests)
    if results.differs(template, done.validators, digests=digests) != template.drift:
        found += await results.note_drift(tx, template, done.validators, digests=digests)
        known |= await templates.of_ids(tx, {template.id})
    return found
