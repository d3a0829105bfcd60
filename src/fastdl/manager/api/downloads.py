# SPDX-License-Identifier: Apache-2.0
"""Downloads to primary storage: prepare, watch, cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError, InternalError
from fastdl.manager.api import views
from fastdl.manager.api.filters import READ, By, Contains
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    JOB,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    listed,
)
from fastdl.manager.api.templates import owned, require_enabled
from fastdl.manager.downloads import disclosure, quota, results, transfers
from fastdl.manager.ledger import (
    copies,
    grants,
    hosts,
    job_list,
    jobs,
    pools,
    records,
    templates,
    zones,
)
from fastdl.manager.ledger.jobs import HELD, LIVE, NewJob, State
from fastdl.manager.ledger.text import loads
from fastdl.manager.ledger.values import BULK, URGENT
from fastdl.wire import codec
from fastdl.wire import messages as m

LATELY_S: Final = 24 * 3600.0
TEMPLATES_MAX: Final = 200
"""Templates whose downloads are listed at once; who asks for one gets it whatever the others do."""


async def _visible(call: Call, tx: AsyncConnection, name: str) -> Row[Any]:
    row = await templates.get(tx, call.args[name])
    if row is None or not await _may_see(call, tx, row):
        raise call.no_entity(name)
    return row


async def _may_see(call: Call, tx: AsyncConnection, row: Row[Any]) -> bool:
    if row.public or row.owner == call.user.id or call.user.admin:
        return True
    return await grants.has(tx, row.id, call.user.account)


async def _pools(call: Call, tx: AsyncConnection, zone_id: str) -> list[str]:
    """The requested pools: one, those of some hosts, or every one an Up host can reach."""
    fleet = call.context.fleet
    if call.get("storageid") is not None:
        pool = await pools.get(tx, call.args["storageid"])
        if pool is None or pool.zone != zone_id:
            raise call.no_entity("storageid")
        return [pool.id]
    wanted: list[str] = call.get("hostids") or []
    found: dict[str, None] = {}
    for host_id in wanted:
        host = await hosts.get(tx, host_id)
        if host is None or host.zone != zone_id:
            raise ApiParamError(f"Unable to find host by id {host_id} in the zone")
        found.update(dict.fromkeys(sorted(await pools.usable(tx, host_id))))
    if not wanted:
        for pool in await pools.of_zone(tx, zone_id):
            if fleet.reaching(pool.id):
                found[pool.id] = None
    return list(found)


async def prepare(call: Call) -> Reply:
    """Download a template to pools before (or when) a VM needs it; one download per pool."""
    s, zone_id = call.context, call.args["zoneid"]
    rank = _rank(call)
    async with s.ledger.read() as tx:
        row = await _visible(call, tx, "templateid")
        enabled = {zone.id: zone.enabled for zone in await zones.all_zones(tx)}
        if zone_id not in await templates.zones_of(tx, row.id):
            raise ApiParamError(f"Template {row.name} is not registered in this zone")
        require_enabled(enabled, zone_id)
        pools = await _pools(call, tx, zone_id)
    if not pools:
        raise InternalError("No primary storage pool of the zone can be reached by a host in Up")

    async def work(tx: AsyncConnection) -> str:
        if zone_id not in await templates.zones_of(tx, row.id):
            raise call.no_entity("templateid")  # deleted since it was looked up
        found = await copies.wanted(tx, row.id, pools, now=call.now, iso=row.iso)
        for copy in found.values():
            await _keep(tx, copy, now=call.now)
        bounds = await _bounds(call, tx, row, list(found.values()))
        new = [
            _download(call, row, found[pool], zone_id, rank, limits)
            for pool, limits in bounds.items()
        ]
        parts = await jobs.submit(tx, new, now=call.now)
        text = f"{row.name} is brought to {len(new)} pool(s)"
        await call.note(tx, "TEMPLATE.PREPARE", text, row.id)
        return await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="Template",
            instance=row.id,
            parts=parts,
        )

    api_job = await call.write(work)
    call.context.dispatcher.wake()
    return Bare({"jobid": api_job})


async def _bounds(
    call: Call, tx: AsyncConnection, row: Row[Any], found: Sequence[Row[Any]]
) -> dict[str, quota.Limits]:
    """Pool → what the template may become there, without pools that are too small for it.

    The caller's account is charged for what is fetched now, an administrator's is not.
    ApiParamError where it fits nowhere, or not in the pool that was named.
    """
    settings, size, left = call.context.settings, quota.disk_of(row) or 0, None
    fitting, refusal = [], None
    for copy in found:
        pool = await pools.get(tx, copy.pool)
        try:
            quota.limits(settings, pool).check(row)
            fitting.append((copy, pool))
        except ApiParamError as exc:
            refusal = refusal or exc
    if refusal is not None and not fitting:
        raise refusal
    fetched = [
        copy
        for copy, _ in fitting
        if not copy.complete and not await job_list.live_download(tx, copies.key_of(copy))
    ]
    if fetched and not call.user.admin:
        left = await quota.charge(tx, settings, call.user.account, count=len(fetched), size=size)
    account = "" if call.user.admin else call.user.account
    for copy in fetched:
        await copies.change(tx, copies.key_of(copy), now=call.now, account=account, size=size)
    return {copy.pool: quota.limits(settings, pool, room=left) for copy, pool in fitting}


async def _keep(tx: AsyncConnection, copy: Row[Any], *, now: float) -> None:
    """Cancel the removal of a *copy* that is needed after all."""
    if copy.state != copies.REMOVING:
        return
    key = copies.key_of(copy)
    if await job_list.live_removal(tx, key):
        raise ApiConflictError("Its copy is being removed: try again shortly")
    await copies.change(tx, key, now=now, state=copies.ABSENT, forced=False, users=[], note="")


def _rank(call: Call) -> int:
    """A request that names one pool has a VM waiting; one that names none seeds in advance."""
    given = call.get("priority")
    if given is None:
        return URGENT if call.get("storageid") is not None else BULK
    if given not in {"urgent", "bulk"}:
        raise ApiParamError("priority is either urgent or bulk")
    return URGENT if given == "urgent" else BULK


def _download(
    call: Call, row: Row[Any], copy: Row[Any], zone_id: str, rank: int, bounds: quota.Limits
) -> NewJob:
    s = call.context
    sources, headers, origins = transfers.sources_of(row)
    return NewJob(
        kind=m.Kind.DOWNLOAD,
        zone=zone_id,
        template=row.id,
        pool=copy.pool,
        volume=copy.volume,
        single=jobs.single_download(copies.key_of(copy)),
        lane=origins[0] if origins else "",
        origins=tuple(origins),
        rank=rank,
        args=m.DownloadArgs(
            template=row.id,
            pool=copy.pool,
            volume=copy.volume,
            iso=row.iso,
            format=row.format,
            transfer=transfers.for_sources(
                s.settings, sources, headers=headers, checksum=row.checksum
            ),
            deadline=float(s.settings.whole("primary.storage.download.wait")),
            max_source_size=bounds.source,
            max_virtual_size=bounds.virtual,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Facts:
    """The ledger's records of one template's downloads.

    *hosts* and *starts*: by host and job. *offered*: the zones that have the template.
    """

    pools: Mapping[str, Row[Any]]
    copies: Mapping[str, Row[Any]]
    latest: Mapping[str, Row[Any]]
    hosts: Mapping[str, Row[Any]]
    starts: Mapping[str, float]
    offered: frozenset[str]

    def shows(self, pool: str) -> bool:
        """Whether *pool* has a copy, or a download that is not history."""
        job, copy = self.latest.get(pool), self.copies.get(pool)
        if (copy is not None and copy.complete) or (job is not None and job.state in LIVE):
            return True
        failed = job is not None and job.state != State.DONE
        return failed and self.pools[pool].zone in self.offered


async def _facts(tx: AsyncConnection, template: str, known: Mapping[str, Row[Any]]) -> _Facts:
    """Return what is known of *template*; *known*: every pool, by its id."""
    latest: dict[str, Row[Any]] = {}
    for job in await job_list.of_template(tx, template):
        latest.setdefault(job.pool, job)
    return _Facts(
        pools=known,
        copies={copy.pool: copy for copy in await copies.of_template(tx, template)},
        latest=latest,
        hosts=await hosts.by_id(tx, (job.host for job in latest.values() if job.host)),
        starts=await job_list.starts(tx, list(latest.values())),
        offered=frozenset(await templates.zones_of(tx, template)),
    )


async def list_(call: Call) -> Reply:
    """List where a template is, or the progress of its downloads: the latest of each pool. A
    download that ended is history where its copy is gone, or the template is offered no more.

    Without a template: those of all that the caller may see, if they run or ended lately."""
    async with call.context.ledger.read() as tx:
        known = {pool.id: pool for pool in await pools.of_zone(tx)}
        if call.get("templateid") is not None:
            rows, since = [await _visible(call, tx, "templateid")], None
        else:
            since = call.now - LATELY_S
            found = await job_list.templates_of_late(tx, since=since, limit=TEMPLATES_MAX)
            every = [await templates.get(tx, id_) for id_ in found]
            rows = [row for row in every if row is not None and await _may_see(call, tx, row)]
        items = [
            _shown(call, row, item)
            for row in rows
            for item in _items(call, row, await _facts(tx, row.id, known), since)
        ]
    return page_of(call, "templatedownload", items)


def _items(call: Call, row: Row[Any], facts: _Facts, since: float | None) -> list[dict[str, Any]]:
    """The pools of one template; with *since* only downloads that run or ended later."""

    def counts(pool: str) -> bool:
        job = facts.latest.get(pool)
        if since is None:
            return True
        return job is not None and (job.state in LIVE or (job.ended or 0) >= since)

    return [
        _view(call, row, pool, facts)
        for pool in dict.fromkeys((*facts.latest, *facts.copies))
        if pool in facts.pools and facts.shows(pool) and counts(pool)
    ]


def _shown(call: Call, row: Row[Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return what of *item* this caller may know: hosts, paths and users are for administrators,
    and an error, which may tell where a template comes from, is for its owner too."""
    hidden = set() if call.user.admin else {"hostid", "hostname", "installpath", "users", "mirrors"}
    if not call.user.admin and row.owner != call.user.id:
        hidden.add("error")
    return {key: value for key, value in item.items() if key not in hidden}


def _view(call: Call, template: Row[Any], pool_id: str, facts: _Facts) -> dict[str, Any]:
    pool, copy = facts.pools[pool_id], facts.copies.get(pool_id)
    item: dict[str, Any] = {
        "templateid": template.id,
        "templatename": template.name,
        "storageid": pool.id,
        "storagename": pool.name,
        "zoneid": pool.zone,
    }
    job = facts.latest.get(pool_id)
    if job is None:
        item |= {"state": "DONE", "percent": 100}
    else:
        item |= _progress(call, job, facts)
    if copy is not None and copy.complete:
        item |= {
            "installpath": copy.install_path,
            "size": copy.size,
            "physicalsize": copy.bytes,
            "users": loads(copy.users),
        }
    return item


def _progress(call: Call, job: Row[Any], facts: _Facts) -> dict[str, Any]:
    board, host = call.context.progress, facts.hosts.get(job.host)
    now = board.of(job.id) if job.state in LIVE else None
    done = loads(job.result) if job.result else {}
    failure = codec.from_plain(m.Failure, loads(job.failure)) if job.failure else None
    error = None
    if failure is not None and job.state != State.DONE:
        error = disclosure.reason(failure, admin=call.user.admin)
    state, rate = job.state, int(now.rate) if now else None
    if job.state in HELD and (host is None or host.state != hosts.UP):
        # The outcome is unknown until the host is back, or counts as Down.
        state, rate = "WAITING", None
        error = "its host is not connected: it resumes when the host is back, or on another host"
    said = board.percent_of(job.id) if job.state in LIVE else None
    return {
        "jobid": job.id,
        "hostid": job.host,
        "hostname": host.name if host is not None else None,
        "state": state,
        "percent": said if said is not None else job.percent,
        "bytes": now.done if now else done.get("target_bytes"),
        "totalbytes": now.total if now else done.get("target_bytes"),
        "fetchedbytes": now.fetched if now else done.get("fetched_bytes"),
        "rate": rate,
        "eta": int(now.eta) if now and now.eta is not None and rate else None,
        "stage": now.stage if now else None,
        "error": error,
        "attempt": job.attempt,
        "priority": "urgent" if job.rank < BULK else "bulk",
        "integrity": done.get("integrity"),
        "digests": done.get("digests"),
        "mirrors": codec.to_plain(now.mirrors) if now else done.get("mirrors"),
        "bottleneck": (now.bottleneck if now else done.get("bottleneck")) or None,
        "created": views.date(job.created),
        "started": views.date(facts.starts.get(job.id)),
        "updated": views.date(job.updated),
        "completed": views.date(job.ended),
    }


async def cancel(call: Call) -> Reply:
    """Cancel a template's downloads: all, or those to one pool."""
    row = await owned(call, "templateid")

    async def work(tx: AsyncConnection) -> list[Row[Any]]:
        cancelled = [
            job
            for job in await job_list.of_template(tx, row.id, live_only=True)
            if call.get("storageid") in {None, job.pool}
            and await results.cancel(tx, job.id, now=call.now)
        ]
        if not cancelled:
            raise ApiParamError(f"Template {row.name} is not being downloaded there")
        text = f"{len(cancelled)} download(s) of {row.name} cancelled"
        await call.note(tx, "TEMPLATE.DOWNLOAD.CANCEL", text, row.id)
        return cancelled

    cancelled = await call.write(work)
    call.context.dispatcher.cancelled(cancelled)
    return Bare({"success": True, "displaytext": f"{len(cancelled)} download(s) cancelled"})


COMMANDS: Final = (
    Command(
        name="prepareTemplate",
        text="Download a template to primary storage now: to one pool, hosts' pools, or a zone's",
        handler=prepare,
        params=(
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("storageid", text="this pool only"),
            Param("hostids", Kind.LIST, "the pools of these hosts"),
            Param("priority", text="urgent (a VM is waiting; default with storageid) or bulk"),
        ),
        response=JOB,
        admin=True,
        opened_by="allow.user.prepare.template",
        changes=True,
        is_async=True,
    ),
    Command(
        name="listTemplateDownloads",
        text="List where a template is, and the progress of its downloads",
        handler=list_,
        params=(
            Param(
                "templateid",
                Kind.UUID,
                "the template or ISO; without one: what runs or ended within a day, of all",
                narrows=READ,
            ),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("storageid", text="by pool", narrows=By()),
            Param("state", text="QUEUED, RUNNING, DONE, FAILED…", narrows=By()),
            *listed(Contains(("storagename",))),
        ),
        response=tuple(
            Field(n)
            for n in (
                "templateid",
                "templatename",
                "storageid",
                "storagename",
                "zoneid",
                "hostid",
                "hostname",
                "jobid",
                "state",
                "stage",
                "percent",
                "bytes",
                "totalbytes",
                "fetchedbytes",
                "rate",
                "eta",
                "error",
                "attempt",
                "priority",
                "created",
                "started",
                "updated",
                "completed",
                "installpath",
                "size",
                "physicalsize",
                "users",
                "integrity",
                "digests",
                "mirrors",
                "bottleneck",
            )
        ),
    ),
    Command(
        name="cancelTemplateDownload",
        text="Cancel a template's downloads; the fetched data is kept for a week, for a resume",
        handler=cancel,
        params=(
            Param("templateid", Kind.UUID, "the template or ISO", required=True),
            Param("storageid", text="to this pool only"),
        ),
        response=(Field("success", "boolean"),),
        changes=True,
    ),
)
