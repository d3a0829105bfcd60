# SPDX-License-Identifier: Apache-2.0
"""Following products: a new version is registered, brought to where the current one is, and only
then takes its name. One manager at a time does it (the lease ``follow``); that saves work only,
because every step checks the ledger again in its own transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError, FastdlError, IntegrityError, PolicyError
from fastdl.manager.chore import Chore
from fastdl.manager.clock import Clock
from fastdl.manager.downloads import checksums, products, registration, results, transfers
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.probing import HostRefusal, Probing
from fastdl.manager.downloads.removal import remove_copies
from fastdl.manager.downloads.seeding import Seeding, seed
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.ledger import copies as copies_table
from fastdl.manager.ledger import follows, grants, job_list, templates
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.text import loads
from fastdl.manager.settings import Settings
from fastdl.model.url import Url
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

INTERVAL: Final = "direct.download.follow.interval"
STEP_S: Final = 5.0
LEASE_S: Final = 300.0
VERSION_MAX: Final = 64
ACCOUNT: Final = "system"


def version_name(name: str, version: str) -> str:
    """The name of a template that is not, or no longer, the current version."""
    return f"{name}-{version}"


def check_version(version: str | None) -> str:
    """*version* of a product, if it can be stored and shown; PolicyError otherwise."""
    if not version or len(version) > VERSION_MAX or not version.isprintable():
        raise PolicyError(f"a version has 1 to {VERSION_MAX} printable characters")
    return version


class Follower:
    """Asks publishers for new versions, and makes each the current one once it is in place."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        probing: Probing,
        *,
        ledger: Ledger,
        clock: Clock,
        settings: Settings,
        fleet: Fleet,
        events: Events,
        name: str,
    ) -> None:
        """*name*: this manager's own, unique among those of one ledger."""
        self._dispatcher = dispatcher
        self._probing = probing
        self._ledger = ledger
        self._clock = clock
        self._settings = settings
        self._fleet = fleet
        self._events = events
        self._chore = Chore("follow", name, ledger=ledger, clock=clock, ttl=LEASE_S)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._clock.sleep(STEP_S)
            try:
                await self.round()
            except FastdlError as exc:
                log.error("following failed", extra={"error": str(exc)})

    async def round(self) -> None:
        """Take every follow one step further; ask the publisher where that is due."""
        async with self._ledger.read() as tx:
            rows = await follows.every(tx)
        if not rows or not await self._chore.is_ours():
            return
        for row in rows:
            try:
                await self._step(row)
            except HostRefusal as refusal:
                await self._note(row, refusal.error.message)
            except FastdlError as exc:
                await self._note(row, exc.message)

    async def _step(self, row: Row[Any]) -> None:
        hours, now = self._settings.number(INTERVAL), self._clock.steady()
        # One that is due later than an interval was postponed before that clock was set back.
        late = row.due == 0 or (hours > 0 and not now < row.due <= now + hours * 3600)
        if late:
            await self._ledger.write(lambda tx: follows.set_due(tx, row.id, now + hours * 3600))
            await self._ask(row)
        failed = await self._bring(row, again=late)
        if failed is not None or late:
            await self._note(row, failed)

    # --- a new version -------------------------------------------------------------------

    async def _ask(self, row: Row[Any]) -> None:
        """Ask the publisher, and register what is newer than anything seen."""
        async with self._ledger.read() as tx:
            known = await follows.versions(tx, row.id)
            model = next((one for one in known if one.state == follows.CURRENT), None)
            zones = await templates.zones_of(tx, model.id) if model is not None else []
        if model is None:
            return
        url, found = await products.find_file(self._settings, row.product, self._asker(zones))
        version = check_version(found.version)
        if version < row.seen:
            raise PolicyError(
                f"{row.product} went back to version {version}, after {row.seen}: refused"
            )
        same = next((one for one in known if one.version == version), None)
        if same is not None and same.checksum != found.checksum:
            raise IntegrityError(f"{row.product}: version {version} has another checksum now")
        if version > row.seen:
            await self._register(row, model, zones, url, found)

    def _asker(self, zones: list[str]) -> products.Ask:
        async def ask(args: m.DocumentsArgs, use: Callable[[m.DocumentsDone], Any]) -> Any:
            done = await self._probing.documents(zones, args, account=ACCOUNT)
            if done is None:
                raise ApiParamError("no host that could fetch the publisher's list is connected")
            return await asyncio.to_thread(use, done)

        return ask

    async def _register(
        self, row: Row[Any], model: Row[Any], zones: list[str], url: Url, found: Fixed
    ) -> None:
        """Store the version *found* at *url* as a template like *model*."""
        transfers.check_origin(self._settings, url.request_text())
        registration.check_format(url, model.format)
        _, headers, _ = transfers.sources_of(model)
        source = url.request_text()
        args = m.ProbeArgs(
            transfer=transfers.for_sources(self._settings, [source], headers=headers),
            format=model.format,
        )
        probe = await self._probing.probe(zones, args, account=ACCOUNT)
        if probe is None:
            raise ApiParamError("no host that could look at the new version is connected")
        checksums.check_agreement(found, probe)
        version = check_version(found.version)
        if probe.unsafe:
            raise PolicyError(f"version {version} is not used: {probe.unsafe[0]}")
        flags = loads(model.flags) | {
            "warnings": list(probe.warnings)[:16],
            "checksumsource": found.source,
            "signedby": found.signed_by,
        }
        like = ("owner", "account", "display_text", "iso", "format", "hypervisor", "os_type",
                "arch", "bootable", "public", "featured", "details")  # fmt: skip
        values = {name: getattr(model, name) for name in like} | {
            "name": version_name(row.name, version),
            "url": source,
            "checksum": found.checksum,
            "flags": flags,
            "sources": [source],
            "origins": registration.origins_of(source, probe.mirrors),
            "size": probe.size,
            "virtual_size": probe.virtual_size,
            "validators": codec.to_plain(probe.validators),
            "digests": dict(probe.digests),
        }
        event = Event(
            type="TEMPLATE.FOLLOW.NEW",
            description=f"{row.name}: version {version} was registered and is being brought "
            "to the pools",
        )

        async def work(tx: AsyncConnection) -> bool:
            now = await follows.locked(tx, row.id)
            if now is None or now.seen >= version:
                return False  # deleted, or another manager was faster
            for one in await follows.versions(tx, row.id):
                if one.state == follows.NEXT:  # it never became the current one
                    await self._drop(tx, one)
            shared = await grants.of_template(tx, model.id)
            id_ = await templates.create(tx, values, zones=zones, now=self._clock.time())
            await grants.add(tx, id_, shared)
            await follows.add_next(tx, row.id, template=id_, version=version)
            await self._events.store(tx, event)
            return True

        if await self._ledger.write(work):
            self._events.publish(event)

    # --- to the pools --------------------------------------------------------------------

    async def _bring(self, row: Row[Any], *, again: bool) -> str | None:
        """Bring the next version to the pools, and make it the current one if it is there.

        *again*: failed downloads are tried again. Returns why one failed.
        """
        now, cancelled, events = self._clock.time(), list[Row[Any]](), list[Event]()

        async def work(tx: AsyncConnection) -> Seeding | None:
            cancelled.clear()
            events.clear()
            found = await follows.locked(tx, row.id)
            if found is None:
                return None
            known = await follows.versions(tx, row.id)
            current = next((one for one in known if one.state == follows.CURRENT), None)
            if current is None:
                events.append(
                    Event(
                        type="TEMPLATE.FOLLOW.END",
                        description=f"{found.name} is followed no more: its template was deleted",
                    )
                )
                await follows.remove(tx, row.id)
                await self._events.store(tx, *events)
                return None
            following = next((one for one in known if one.state == follows.NEXT), None)
            seeding = None
            if following is not None:
                seeding = await seed(
                    tx, self._settings, self._fleet, current, following, now=now, again=again
                )
                if seeding.ready:
                    events.append(await _promote(tx, found, current, following))
            old = [one for one in await follows.versions(tx, row.id) if one.state == follows.OLD]
            for one in old[found.keep :]:
                cancelled.extend(await self._drop(tx, one))
            await self._events.store(tx, *events)
            return seeding

        seeding = await self._ledger.write(work)
        self._events.publish(*events)
        self._dispatcher.cancelled(cancelled)
        return None if seeding is None else seeding.failed

    async def _drop(self, tx: AsyncConnection, template: Row[Any]) -> list[Row[Any]]:
        """Delete a version as deleteTemplate does: copies in use stay until nobody uses them."""
        now = self._clock.time()
        live = await job_list.live_of_template(tx, template.id)
        cancelled = await results.cancel(tx, live, now=now)
        doomed = await copies_table.of_template(tx, template.id)
        await templates.remove(tx, template.id, zone_id=None, now=now)
        await remove_copies(tx, doomed, now=now)
        return cancelled

    async def _note(self, row: Row[Any], error: str | None) -> None:
        """Store *error*, and report it if it is a new one."""
        event = Event(
            type="TEMPLATE.FOLLOW.ERROR", description=f"{row.name}: {error}", level="WARN"
        )

        async def work(tx: AsyncConnection) -> bool:
            changed = await follows.set_error(tx, row.id, error)
            if changed and error is not None:
                await self._events.store(tx, event)
            return changed and error is not None

        if await self._ledger.write(work):
            self._events.publish(event)


async def _promote(
    tx: AsyncConnection, row: Row[Any], current: Row[Any], following: Row[Any]
) -> Event:
    """Give *following* the followed name, and the current one the name of its version."""
    await templates.change(tx, current.id, {"name": version_name(row.name, current.version)})
    await templates.change(tx, following.id, {"name": row.name})
    await follows.set_state(tx, current.id, follows.OLD)
    await follows.set_state(tx, following.id, follows.CURRENT)
    return Event(
        type="TEMPLATE.FOLLOW.CURRENT",
        description=f"{row.name} is version {following.version} now, after {current.version}",
        resource=following.id,
    )
