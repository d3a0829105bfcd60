# SPDX-License-Identifier: Apache-2.0
"""``/events``: what happens, as server-sent events, for pages that are logged in.

A stream shows what ``listEvents`` and ``listTemplateDownloads`` show its user, and ends with the
session: at a logout, when it expires, and when the user is disabled, deleted or given other rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web
from sqlalchemy import Row

from fastdl.errors import ApiAuthError, InternalError
from fastdl.manager.access.auth import UNVERIFIED
from fastdl.manager.access.sessions import Session
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.request import COOKIE
from fastdl.manager.ledger import accounts, jobs, templates

KEEPALIVE_S: Final = 15.0
COALESCE_S: Final = 0.5
SEND_S: Final = 30.0
"""A page that reads nothing for so long is gone."""
PER_USER_MAX: Final = 10
KNOWN_MAX: Final = 10_000

Queue = asyncio.Queue[dict[str, Any]]


class Streams:
    """The event streams of one manager."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._watching: dict[str, dict[int, web.Request]] = {}
        """User → the requests in progress, by their ids."""
        self._accounts: OrderedDict[str, str] = OrderedDict()
        """Job → account, of recently published jobs."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Handle one request for the stream."""
        try:
            session, user = await self._admit(request)
        except ApiAuthError as exc:
            return web.Response(text=exc.message, status=401)
        theirs = self._watching.get(user.id, {})
        if sum(map(_connected, theirs.values())) >= PER_USER_MAX:
            return web.Response(text="you watch with too many pages already", status=429)
        with self._context.notices.watch() as queue:
            if queue is None:
                return web.Response(text="too many pages are watching", status=503)
            self._watching.setdefault(user.id, theirs)[id(request)] = request
            try:
                return await self._answer(request, queue, session, user)
            finally:
                del theirs[id(request)]
                if not theirs:
                    del self._watching[user.id]

    async def _admit(self, request: web.Request) -> tuple[Session, Row[Any]]:
        """Return the session and its user; ApiAuthError if there is none."""
        session = await self._context.sessions.check(
            request.cookies.get(COOKIE),
            request.query.get("sessionkey"),
            now=self._context.clock.steady(),
        )
        return session, await self._user(session)

    async def _user(self, session: Session) -> Row[Any]:
        async with self._context.ledger.read() as tx:
            row = await accounts.get(tx, session.user)
        if row is None or not row.enabled:
            await self._context.sessions.close_user(session.user)
            raise ApiAuthError(UNVERIFIED)
        return row

    async def _answer(
        self, request: web.Request, queue: Queue, session: Session, user: Row[Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        try:
            await response.prepare(request)
            async for batch in self._batches(queue, session):
                shown = [_for(user, event) for event in batch if await self._may_see(user, event)]
                async with asyncio.timeout(SEND_S):
                    await response.write(_encoded(shown) or b": still here\n\n")
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _batches(self, queue: Queue, session: Session) -> AsyncIterator[list[dict[str, Any]]]:
        """What is published, until the session ends."""
        clock = self._context.clock
        checked = clock.steady()
        while (left := session.until - clock.steady()) > 0:
            batch = await _batch(queue, session, min(KEEPALIVE_S, left))
            if clock.steady() - checked >= KEEPALIVE_S:
                # Commands that take rights away end sessions immediately; this covers the rest.
                with contextlib.suppress(InternalError):
                    await self._user(session)
                checked = clock.steady()
            if session.ended.is_set():
                return
            yield batch

    async def _may_see(self, user: Row[Any], event: dict[str, Any]) -> bool:
        if user.admin:
            return True
        match event["topic"]:
            case "event":
                return bool(event["account"] == user.account)
            case "download" | "progress":
                return bool(await self._account_of(event["job"]) == user.account)
        return False

    async def _account_of(self, job: str) -> str | None:
        """Return the account whose template *job* is about."""
        if job not in self._accounts:
            try:
                async with self._context.ledger.read() as tx:
                    row = await jobs.get(tx, job)
                    template = await templates.get(tx, row.template) if row is not None else None
            except InternalError:
                return None
            if template is None:
                return None
            if len(self._accounts) >= KNOWN_MAX:
                self._accounts.popitem(last=False)
            self._accounts[job] = template.account
        return self._accounts[job]


def _for(user: Row[Any], event: dict[str, Any]) -> dict[str, Any]:
    """Return the part of *event* that this user may see: mirrors are for administrators, as in
    ``listTemplateDownloads``.
    """
    if user.admin:
        return event
    return {name: value for name, value in event.items() if name != "mirrors"}


def _connected(request: web.Request) -> bool:
    return request.transport is not None and not request.transport.is_closing()


async def _batch(queue: Queue, session: Session, wait_s: float) -> list[dict[str, Any]]:
    """Return what is published within ``COALESCE_S`` of the first, nothing after *wait_s* of
    silence; immediately if the session ends.
    """
    first = asyncio.ensure_future(queue.get())
    ended = asyncio.ensure_future(session.ended.wait())
    try:
        await asyncio.wait({first, ended}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not first.done() or ended.done():
            return []
        await asyncio.wait({ended}, timeout=COALESCE_S)
        batch = [first.result()]
        while not queue.empty():
            batch.append(queue.get_nowait())
        return batch
    finally:
        first.cancel()
        ended.cancel()


def _encoded(events: list[dict[str, Any]]) -> bytes:
    # Of several reports on one job only the last counts.
    latest = {(e["topic"], e.get("job", id(e))): e for e in events}
    text = ""
    for event in latest.values():
        data = json.dumps({k: v for k, v in event.items() if k != "topic"})
        text += f"event: {event['topic']}\ndata: {data}\n\n"
    return text.encode()
