# SPDX-License-Identifier: Apache-2.0
"""What the API port serves besides the API: metrics, health, and events for the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any, Final

from aiohttp import web

from fastdl import __version__
from fastdl.errors import ApiAuthError
from fastdl.manager.api.server import COOKIE
from fastdl.manager.core import Core
from fastdl.manager.ledger import certs, hosts, jobs, slots, zones
from fastdl.manager.ledger.engine import database_alive

KEEPALIVE_S: Final = 15.0
COALESCE_S: Final = 0.5


def add_routes(app: web.Application, core: Core) -> None:
    """Add the routes to *app*."""

    async def healthz(_request: web.Request) -> web.Response:
        alive = await database_alive(core.services.ledger)
        body = {
            "status": "ok" if alive else "failing",
            "version": __version__,
            "ledger": "ok" if alive else "not answering",
            "hosts": len(core.services.fleet.hosts),
        }
        return web.json_response(body, status=200 if alive else 503)

    async def metrics(_request: web.Request) -> web.Response:
        await refresh(core)
        return web.Response(
            body=core.services.metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def events(request: web.Request) -> web.StreamResponse:
        return await stream_events(core, request)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/events", events)


async def refresh(core: Core) -> None:
    """Bring the gauges up to date from the ledger."""
    s = core.services
    async with s.ledger.read() as tx:
        live = await jobs.count_live(tx)
        states = Counter(row.state for row in await hosts.of_zone(tx))
        pushes = await certs.counts(tx)
        in_use, _ = await slots.usage(tx)
        names = {zone.id: zone.name for zone in await zones.all_zones(tx)}
        certificates = await certs.live(tx)
    metrics, now = s.metrics, s.clock.time()
    for gauge, values in (
        (metrics.queue, live), (metrics.hosts, states), (metrics.certificates, pushes),
    ):  # fmt: skip
        gauge.clear()
        for state, count in values.items():
            gauge.labels(state).set(count)
    metrics.expiry.clear()
    for row in certificates:
        metrics.expiry.labels(names.get(row.zone, ""), row.alias).set(row.not_after - now)
    metrics.origin_active.clear()
    for (kind, key), active in in_use.items():
        if kind == "origin":
            metrics.origin_active.labels(key).set(active)


async def stream_events(core: Core, request: web.Request) -> web.StreamResponse:
    """Server-sent events for a page that is logged in: progress twice a second at most."""
    try:
        core.sessions.check(
            request.cookies.get(COOKIE),
            request.query.get("sessionkey"),
            now=core.services.clock.time(),
        )
    except ApiAuthError as exc:
        return web.Response(text=exc.message, status=401)
    with core.services.notices.watch() as queue:
        if queue is None:
            return web.Response(text="too many pages are watching", status=503)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await _send_batch(response, queue)
    return response


async def _send_batch(response: web.StreamResponse, queue: asyncio.Queue[dict[str, Any]]) -> None:
    try:
        batch = [await asyncio.wait_for(queue.get(), KEEPALIVE_S)]
    except TimeoutError:
        await response.write(b": still here\n\n")
        return
    await asyncio.sleep(COALESCE_S)
    while not queue.empty():
        batch.append(queue.get_nowait())
    # Of several reports on one job only the last matters.
    latest = {(e["topic"], e.get("job", id(e))): e for e in batch}
    for event in latest.values():
        data = json.dumps({k: v for k, v in event.items() if k != "topic"})
        await response.write(f"event: {event['topic']}\ndata: {data}\n\n".encode())
