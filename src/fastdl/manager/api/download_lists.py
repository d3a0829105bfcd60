# SPDX-License-Identifier: Apache-2.0
"""Where is a template, and how far are its downloads?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.api import views
from fastdl.manager.api.filters import READ, By, Contains
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import Call, Command, Field, Kind, Param, Reply, listed
from fastdl.manager.api.template_access import may_see, visible
from fastdl.manager.downloads import disclosure
from fastdl.manager.ledger import copies, hosts, job_list, pools, templates
from fastdl.manager.ledger.jobs import HELD, LIVE, State
from fastdl.manager.ledger.text import loads
from fastdl.manager.ledger.values import BULK
from fastdl.wire import codec
from fastdl.wire import messages as m

LATELY_S: Final = 24 * 3600.0


TEMPLATES_MAX: Final = 200
"""Templates whose downloads are listed at once; who asks for one gets it whatever the others do."""


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
    latest = await job_list.latest_of_template(tx, template)
    return _Facts(
        pools=known,
        copies={copy.pool: copy for copy in await copies.of_template(tx, template)},
        latest=latest,
        hosts=await hosts.by_id(tx, (job.host for job in latest.values() if job.host)),
        starts=await job_list.starts(tx, list(latest.values())),
        offered=frozenset(await templates.zones_of(tx, template)),
    )


async def list_downloads(call: Call) -> Reply:
    """List where a template is, or the progress of its downloads: the latest of each pool. A
    download that ended is history where its copy is gone, or the template is offered no more.

    Without a template: those of all that the caller may see, if they run or ended lately."""
    async with call.context.ledger.read() as tx:
        known = {pool.id: pool for pool in await pools.of_zone(tx)}
        if call.get("templateid") is not None:
            rows, since = [await visible(call, tx, "templateid")], None
        else:
            since = call.now - LATELY_S
            found = await job_list.templates_of_late(tx, since=since, limit=TEMPLATES_MAX)
            every = [await templates.get(tx, id_) for id_ in found]
            rows = [row for row in every if row is not None and await may_see(call, tx, row)]
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


COMMANDS: Final = (
    Command(
        name="listTemplateDownloads",
        text="List where a template is, and the progress of its downloads",
        handler=list_downloads,
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
)
