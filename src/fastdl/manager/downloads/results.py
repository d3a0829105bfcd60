# SPDX-License-Identifier: Apache-2.0
"""What happens when a host reports a failure, or the result of a removal or an audit?

One transaction stores the result, the state of the copy, the API jobs that waited for it and the
events that report it. ``ends`` has the downloads that succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.downloads import audits, disclosure, objects, scheduler
from fastdl.manager.downloads.drift import drift
from fastdl.manager.downloads.removal import pause, remove_copies
from fastdl.manager.events import Event
from fastdl.manager.ledger import accounts, copies, hosts, job_list, jobs, records, slots, templates
from fastdl.manager.ledger.jobs import State
from fastdl.manager.ledger.text import dumps, loads
from fastdl.wire import codec
from fastdl.wire import messages as m

Reaching = Callable[[str], Iterable[str]]
"""Returns the connected hosts that may be given downloads to a pool."""


@dataclass(frozen=True, slots=True)
class Terms:
    """*now*: the time; *steady*: the time that never jumps; *origin_most*: downloads that an
    origin may serve at once; *link_lifetime*: seconds that links to objects last."""

    now: float
    steady: float
    origin_most: int
    link_lifetime: int


@dataclass(frozen=True, slots=True)
class Ended:
    """*row*: the job's, as it was before; *state*: what it is now."""

    state: State
    row: Row[Any]
    events: list[Event]


async def record(
    tx: AsyncConnection, row: Row[Any], result: m.JobResult, *, reaching: Reaching, terms: Terms
) -> Ended | None:
    """Record the *result* of the job *row*; None = stale, nothing done.

    *reaching*: where a failed job might go next. The caller stores the events in the same
    transaction.
    """
    copy = await copies.get(tx, copies.key_of(row)) if row.volume else None
    if result.done is not None:
        state = await _done(terms, tx, row, copy, result.done)
    else:
        assert result.failure is not None
        state = await _failed(terms, tx, row, copy, result.failure, reaching)
    if state is None:
        return None
    if row.kind == m.Kind.DOWNLOAD and state != State.RETRY_WAIT:
        await remove_late(tx, row, now=terms.now)
    events = await _events(tx, state, row, copy, result)
    return Ended(state, row, events)


async def _done(
    terms: Terms, tx: AsyncConnection, row: Row[Any], copy: Row[Any] | None, done: m.Done
) -> State | None:
    now = terms.now
    ended = await jobs.finish(
        tx,
        row.id,
        fence=row.fence,
        host_id=row.host,
        state=State.DONE,
        result=codec.done_to_json(done),
        now=now,
    )
    if ended is None:
        return None
    if isinstance(done, m.RemoveDone) and copy is not None:
        await _removed(terms, tx, copy, done)
    elif isinstance(done, m.AuditDone) and copy is not None:
        await audits.record(tx, copy, done, now=now)
    await complete_api_jobs(tx, {row.id}, now=now)
    return ended


async def remove_late(tx: AsyncConnection, row: Row[Any], *, now: float) -> None:
    """Start the removal of what a download of a deleted template left, however it ended."""
    copy = await copies.get(tx, copies.key_of(row)) if row.volume else None
    if copy is None or copy.template != row.template:
        return
    doomed = copy.state == copies.REMOVING
    if doomed or row.zone not in await templates.zones_of(tx, row.template):
        await remove_copies(tx, [copy], now=now)


async def _removed(terms: Terms, tx: AsyncConnection, copy: Row[Any], done: m.RemoveDone) -> None:
    now, key = terms.now, copies.key_of(copy)
    if done.kept:
        failures = copy.failures + 1
        await copies.change(
            tx,
            key,
            now=now,
            users=done.users,
            note=done.reason,
            failures=failures,
            retry_at=terms.steady + pause(failures),
        )
    elif await job_list.live_download(tx, key):
        await copies.change(
            tx,
            key,
            now=now,
            state=copies.ABSENT,
            complete=False,
            install_path="",
            users=[],
            note="",
            failures=0,
            retry_at=0.0,
        )
    else:
        await copies.forget(tx, key)


async def _failed(
    terms: Terms,
    tx: AsyncConnection,
    row: Row[Any],
    copy: Row[Any] | None,
    failure: m.Failure,
    reaching: Reaching,
) -> State | None:
    now, text = terms.now, dumps(codec.to_plain(failure))
    if scheduler.is_overload(failure):
        most = terms.origin_most
        for slot in jobs.held_slots(row):
            if slot[0] == "origin":
                cap = scheduler.adapt(await slots.cap_of(tx, slot), most=most, overloaded=True)
                await slots.set_cap(tx, slot, cap)
    if objects.may_have_expired(failure, row.args):
        given = (await job_list.starts(tx, [row])).get(row.id, now)
        # The host, or another one, goes on with a new link from what is there.
        expired = now - given >= terms.link_lifetime
        failure = replace(failure, retryable=failure.retryable or expired)
    then = scheduler.after_failure(
        failure,
        host=row.host,
        attempt=row.attempt,
        tried=tuple(loads(row.tried)),
        able_hosts=reaching(row.pool),
    )
    if then.again and row.state != State.CANCELLING and row.kind != m.Kind.AUDIT:
        due = terms.steady + then.delay if then.delay else 0.0
        again = await jobs.requeue(tx, row, now=now, not_before=due, tried=then.tried, failure=text)
        return State.RETRY_WAIT if again else None
    ended = await jobs.finish(
        tx, row.id, fence=row.fence, host_id=row.host, state=State.FAILED, failure=text, now=now
    )
    if ended is None:
        return None
    if row.kind == m.Kind.REMOVE and copy is not None:
        failures = copy.failures + 1
        await copies.change(
            tx,
            copies.key_of(copy),
            now=now,
            note=failure.message,
            failures=failures,
            retry_at=terms.steady + pause(failures),
        )
    await complete_api_jobs(tx, {row.id}, now=now)
    return ended


# --- events --------------------------------------------------------------------------


async def _events(
    tx: AsyncConnection, state: State, row: Row[Any], copy: Row[Any] | None, result: m.JobResult
) -> list[Event]:
    """The events of an end; their level follows the outcome."""
    if state == State.RETRY_WAIT:
        return []
    if row.kind == m.Kind.REMOVE:
        return await _removal_events(tx, row, copy, result)
    if row.kind == m.Kind.AUDIT:
        return await audits.events(tx, row, result)
    template = await templates.get(tx, row.template)
    if template is None or result.failure is None:
        return []
    kind = f"{'ISO' if template.iso else 'TEMPLATE'}.DIRECT.DOWNLOAD"
    if state == State.CANCELLED:
        text = f"the download of {template.name} to pool {row.pool} was cancelled"
        return [_event(f"{kind}.CANCEL", text, "WARN", row)]
    text = f"{template.name} could not be downloaded to pool {row.pool}: "
    return [_event(f"{kind}.FAILURE", text + result.failure.message, "ERROR", row)]


async def _removal_events(
    tx: AsyncConnection, row: Row[Any], copy: Row[Any] | None, result: m.JobResult
) -> list[Event]:
    """For a removal that is retried, one event per new outcome."""
    names = await copies.template_names(tx, [row.template] if row.template else [])
    what = f"the copy of {names.get(row.template, row.volume)} on pool {row.pool}"
    if result.failure is not None:
        after = await copies.get(tx, copies.key_of(row))
        if copy is not None and after is not None and copy.note == after.note:
            return []  # same as last time
        text = f"{what} could not be removed: {result.failure.message}"
        return [_event("TEMPLATE.COPY.REMOVE.FAILURE", text, "ERROR", row)]
    done = result.done
    if isinstance(done, m.RemoveDone) and done.kept:
        if copy is not None and tuple(loads(copy.users)) == done.users:
            return []
        return [_event("TEMPLATE.COPY.KEPT", f"{what} is kept: {done.reason}", "WARN", row)]
    return [_event("TEMPLATE.COPY.REMOVE", f"{what} was removed", "INFO", row)]


def _event(type_: str, text: str, level: str, row: Row[Any]) -> Event:
    return Event(type=type_, description=text, level=level, resource=row.template)


def differs(template: Row[Any], seen: m.Validators, *, digests: Mapping[str, str]) -> str | None:
    """Return how what was *seen* at the origin differs from the registration."""
    then: m.Validators = codec.from_plain(m.Validators, loads(template.validators))
    return drift(then, seen, digests_then=loads(template.digests), digests_now=digests)


async def note_drift(
    tx: AsyncConnection, template: Row[Any], seen: m.Validators, *, digests: Mapping[str, str]
) -> list[Event]:
    """Compare what was *seen* at the origin with the registration; a change is reported once."""
    difference = differs(template, seen, digests=digests)
    if difference == template.drift or not await templates.set_drift(tx, template.id, difference):
        return []
    if not difference:
        return []
    kind = "ISO" if template.iso else "TEMPLATE"
    text = f"the origin of {template.name} serves another file than at registration: {difference}"
    type_ = f"{kind}.DIRECT.DOWNLOAD.DRIFT"
    return [Event(type=type_, description=text, level="WARN", resource=template.id)]


# --- API jobs ----------------------------------------------------------------------------------


async def cancel(tx: AsyncConnection, rows: Collection[Row[Any]], *, now: float) -> list[Row[Any]]:
    """Cancel live jobs; return the rows, as they were, of those that had not ended."""
    await hosts.lock(tx, {row.host for row in rows if row.host})
    found = [await jobs.cancel(tx, id_, now=now) for id_ in sorted(row.id for row in rows)]
    cancelled = [row for row in found if row is not None]
    await complete_api_jobs(tx, {row.id for row in cancelled if row.waiting}, now=now)
    return cancelled


async def complete_api_jobs(tx: AsyncConnection, ended: Collection[str], *, now: float) -> None:
    """Complete the API jobs whose last part is among the jobs *ended* (in the transaction that
    ended them)."""
    for api_job in await records.finished_api_jobs(tx, ended):
        await complete(tx, api_job, now=now)


async def complete(tx: AsyncConnection, api_job: Row[Any], *, now: float) -> None:
    """Complete an API job all of whose parts have ended."""
    parts = await records.parts_of(tx, api_job.id)
    bad = [part for part in parts if part.state != State.DONE]
    if not bad:
        result: dict[str, Any] = {"success": True}
        if found := [one for part in parts if (one := audits.shown(part))]:
            result["templatecopyaudit"] = found
        if kept := [done for part in parts if (done := _kept(part))]:
            result["displaytext"] = f"{len(kept)} of {len(parts)} copies are kept: {kept[0].reason}"
        await records.complete_api_job(
            tx, api_job.id, status=records.SUCCEEDED, result=result, now=now
        )
        return
    reason = "it was cancelled"
    if bad[0].failure:
        owner = await accounts.get(tx, api_job.owner)
        failure = codec.from_plain(m.Failure, loads(bad[0].failure))
        reason = disclosure.reason(failure, admin=owner is not None and owner.admin)
    what = f"{len(bad)} of {len(parts)} pools failed; the first: " if len(parts) > 1 else ""
    result = {"errorcode": 530, "errortext": f"{what}{reason}"}
    await records.complete_api_job(tx, api_job.id, status=records.FAILED, result=result, now=now)


def _kept(part: Row[Any]) -> m.RemoveDone | None:
    if part.kind != m.Kind.REMOVE or not part.result:
        return None
    done = codec.done_from_json(part.kind, part.result)
    return done if isinstance(done, m.RemoveDone) and done.kept else None
