# SPDX-License-Identifier: Apache-2.0
"""What the API port serves besides the API: the page and its events, metrics, health."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections import Counter
from typing import Final

from aiohttp import web

from fastdl.errors import ApiAuthError, ApiLimitError, InternalError
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.request import client_of
from fastdl.manager.ledger import certs, hosts, job_list, slots, zones
from fastdl.manager.ledger.engine import database_alive
from fastdl.web.events import Streams
from fastdl.web.page import add_page

_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="fastdl", Basic realm="fastdl"'}


def add_routes(app: web.Application, context: ApiContext) -> None:
    """Add the routes to *app*."""
    # Open to anybody: of concurrent requests only one at a time queries the ledger.
    one = asyncio.Lock()

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def healthz(_request: web.Request) -> web.Response:
        async with one:
            alive = await database_alive(context.ledger)
        status = ("ok" if alive else "failing") if context.ready else "starting"
        body = {"status": status, "ledger": "ok" if alive else "not answering"}
        return web.json_response(body, status=200 if status == "ok" else 503)

    async def metrics(request: web.Request) -> web.Response:
        try:
            _check_token(context, request)
        except ApiLimitError as exc:
            return web.Response(text=exc.message, status=429)
        except ApiAuthError as exc:
            return web.Response(text=exc.message, status=401, headers=_CHALLENGE)
        try:
            async with one:
                await refresh(context)
        except InternalError as exc:
            return web.Response(text=exc.message, status=503)
        return web.Response(
            body=context.metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app.router.add_get("/livez", livez)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", healthz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/events", Streams(context).serve)
    add_page(app)


def _check_token(context: ApiContext, request: web.Request) -> None:
    """ApiAuthError if /metrics requires a token and *request* has another one."""
    settings = context.settings
    token = settings.text("metrics.token")
    if token and not hmac.compare_digest(_token_in(request).encode(), token.encode()):
        address, _ = client_of(request, settings)
        context.count_refusal(address)
        raise ApiAuthError("credentials are needed")


def _token_in(request: web.Request) -> str:
    """Return the bearer token, or the password of basic authentication; else nothing."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


async def refresh(context: ApiContext) -> None:
    """Bring the gauges up to date from the ledger."""
    s = context
    async with s.ledger.read() as tx:
        live = await job_list.count_live(tx)
        known = await hosts.of_zone(tx)
        pushes = await certs.counts(tx)
        in_use, _ = await slots.usage(tx)
        names = {zone.id: zone.name for zone in await zones.all_zones(tx)}
        certificates = await certs.live(tx)
    metrics, now = s.metrics, s.clock.time()
    states = Counter(row.state for row in known)
    for gauge, values in (
        (metrics.queue, live),
        (metrics.hosts, states),
        (metrics.certificates, pushes),
    ):
        gauge.clear()
        for state, count in values.items():
            gauge.labels(state).set(count)
    metrics.expiry.clear()
    for row in certificates:
        metrics.expiry.labels(names.get(row.zone, ""), row.alias).set(row.not_after - now)
    metrics.host_expiry.clear()
    certified = [row for row in known if row.certified_until is not None]
    for row in sorted(certified, key=lambda row: -row.certified_until):  # of namesakes the earliest
        gauge = metrics.host_expiry.labels(names.get(row.zone, ""), row.name)
        gauge.set(row.certified_until - now)
    metrics.show_active({key: n for (kind, key), n in in_use.items() if kind == "origin"})
    for name, not_after in context.expiries().items():
        metrics.server_expiry.labels(name).set(not_after - now)
