# SPDX-License-Identifier: Apache-2.0
"""``/client/api``: from an HTTP request to a command and back to an envelope."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import (
    ApiAuthError,
    ApiConflictError,
    FastdlError,
)
from fastdl.manager import sealed
from fastdl.manager.access import auth
from fastdl.manager.api import envelope, filters, login
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.request import ApiRequest, client_of, read_request
from fastdl.manager.api.spec import (
    CARRIED_OUT,
    Bare,
    Call,
    Command,
    Listing,
    Reply,
    User,
    read_args,
)
from fastdl.manager.ledger import accounts

log = logging.getLogger(__name__)

COOL_S: Final = 0.2
"""How long a 429 response is delayed, to slow down clients that retry at once."""
COOLING_MAX: Final = 1000
KEY_MAX: Final = 128
"""Longest API key that is looked up."""


class _RefusedError(Exception):
    """No such command for this caller (*code* 401 when signed, 432 in a session), or not by
    this method (405)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


Once = tuple[str, float] | None
"""(claim, until when it could be sent again) of a request that takes effect once."""


class ApiServer:
    """The handler of ``/client/api``."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._cooling = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request, always with one of CloudStack's envelopes."""
        started = asyncio.get_running_loop().time()
        # Of an unreadable request only its URL is known.
        name = _envelope_of(request.query.get("command", ""))
        as_json = request.query.get("response", "").lower() == "json"
        known, code = "unknown", 200
        cookies: dict[str, str] = {}
        try:
            read = await read_request(request, self._context.settings)
            name, as_json = _envelope_of(read.command), read.as_json
            read.check_names()
            if read.command.lower() in login.NAMES and "signature" not in read.lower:
                known = read.command.lower()
                body, cookies = await self._session(known, read)
            else:
                command, user, once = await self._authenticate(read)
                known = command.name
                body = envelope.plain(await self._call(command, user, read, once))
        except _RefusedError as exc:
            code = exc.code
            if code != 405:
                name = "errorresponse"
            body = envelope.error_body(code, str(exc), None if code == 401 else 9999)
        except FastdlError as exc:
            code, cscode = envelope.codes_of(exc)
            body = envelope.error_body(code, exc.message, cscode)
            # A flood must not flood the log, too; the metrics count it.
            level = logging.DEBUG if code == 429 else logging.INFO
            address, _ = client_of(request, self._context.settings)
            log.log(
                level,
                "request refused",
                extra={"command": known, "code": code, "why": exc.message, "address": address},
            )
        except Exception:
            log.exception("request failed", extra={"command": known})
            code = 530
            body = envelope.error_body(code, "Internal error executing command", 9999)
        self._context.metrics.requests.labels(known, str(code)).inc()
        self._context.metrics.request_seconds.observe(asyncio.get_running_loop().time() - started)
        if code == 429:
            await self._cool_down()
        response = self._response(envelope.render(name, body, as_json=as_json), code, as_json)
        if cookies:
            _set_cookies(response, cookies, secure=read.secure)
        return response

    async def _cool_down(self) -> None:
        if self._cooling < COOLING_MAX:
            self._cooling += 1
            try:
                await asyncio.sleep(COOL_S)
            finally:
                self._cooling -= 1

    def _response(self, text: str, code: int, as_json: bool) -> web.Response:  # noqa: FBT001
        json_type = self._context.settings.text("json.content.type")
        return web.Response(
            body=text.encode(),
            status=code,
            headers={
                "Content-Type": json_type if as_json else "text/xml; charset=UTF-8",
                "Cache-Control": "no-store",
            },
        )

    # --- who calls -----------------------------------------------------------------------

    async def _session(self, command: str, read: ApiRequest) -> login.Answer:
        if command == "logout":
            return await login.logout(self._context, read)
        if read.method != "POST":
            raise _RefusedError(405, "login requires POST")
        return await login.login(self._context, read)

    async def _authenticate(self, read: ApiRequest) -> tuple[Command, User, Once]:
        """Return the command, its caller, and the claim of a signed request."""
        if not read.given:
            raise _RefusedError(432, "Invalid request, no command sent")
        command = COMMANDS.get(read.command.lower())
        signed = "apikey" in read.lower or "signature" in read.lower
        once: Once = None
        try:
            if signed:
                row, once = await self._check_signature(read)
                if once is not None and command is not None and command.changes:
                    await self._check_first(once)
            else:
                row = await self._check_session(read)
        except (ApiAuthError, ApiConflictError):
            self._context.count_refusal(read.address)
            raise
        if signed:
            self._count_request(row.api_key)
        if not read.command:
            raise _RefusedError(432, "Invalid request, no command sent")
        # A forbidden command looks the same as one that does not exist.
        if command is None or not (row.admin or self._open_to_users(command)):
            if signed:
                raise _RefusedError(401, auth.UNVERIFIED)
            raise _RefusedError(432, f"Unknown API command: {read.command[:100]}")
        if command.changes and read.method not in {"GET", "POST"}:
            raise _RefusedError(405, "Commands that change state require POST or GET")
        user = User(
            id=row.id,
            username=row.username,
            account=row.account,
            admin=row.admin,
            address=read.address,
            cookie=None if signed else read.cookie,
        )
        self._throttle(user)
        return command, user, once

    def _open_to_users(self, command: Command) -> bool:
        if not command.admin:
            return True
        settings = self._context.settings
        return bool(command.opened_by) and settings.flag(command.opened_by)

    def _count_request(self, key: str) -> None:
        """Count a request of its key's owner: others' requests do not use up the owner's limit."""
        s = self._context
        per_second = s.settings.whole("api.requests.per.second")
        self._context.rates.take(key, per_second=per_second, now=s.clock.steady())

    def _throttle(self, user: User) -> None:
        """Count a request of who is who they say; administrators are not limited."""
        s = self._context
        if not user.admin and s.settings.flag("api.throttling.enabled"):
            self._context.quotas.take(
                user.account,
                most=s.settings.whole("api.throttling.max"),
                interval=s.settings.number("api.throttling.interval"),
                now=s.clock.steady(),
            )

    async def _check_signature(self, read: ApiRequest) -> tuple[Row[Any], Once]:
        s, key = self._context, read.lower.get("apikey", "")
        row = None
        if 0 < len(key) <= KEY_MAX:
            async with s.ledger.read() as tx:
                row = await accounts.by_key(tx, key)
        secret = sealed.secret_key(s.vault, row) if row is not None else None
        good = auth.signature_matches(
            read.given, read.lower.get("signature", ""), secret or "nobody's key"
        )
        if row is None or not secret or not good:
            raise ApiAuthError(auth.UNVERIFIED)
        until = auth.expiry_of(
            read.lower,
            now=s.clock.time(),
            required=s.settings.flag("api.signature.expiry.required"),
            ahead_max=s.settings.number("api.signature.expiry.max"),
            skew=s.settings.number("api.signature.expiry.skew"),
        )
        return row, None if until is None else (auth.claim_of(read.given, key), until)

    async def _check_first(self, once: tuple[str, float]) -> None:
        """ApiConflictError for a copy of a request that took effect. The command would find
        that out in its transaction; before that, some ask hosts, which no copy is to do."""
        async with self._context.ledger.read() as tx:
            if await accounts.was_claimed(tx, once[0]):
                raise ApiConflictError(CARRIED_OUT)

    async def _check_session(self, read: ApiRequest) -> Row[Any]:
        if read.cross_site:
            raise ApiAuthError(auth.UNVERIFIED)
        now = self._context.clock.steady()
        sessions = self._context.sessions
        session = await sessions.check(read.cookie, read.lower.get("sessionkey"), now=now)
        async with self._context.ledger.read() as tx:
            row = await accounts.get(tx, session.user)
        if row is None or not row.enabled:
            await sessions.close_user(session.user)
            raise ApiAuthError(auth.UNVERIFIED)
        return row

    # --- the call ------------------------------------------------------------------------

    async def _call(self, command: Command, user: User, read: ApiRequest, once: Once) -> Reply:
        args = read_args(command, read.given)
        call = Call(context=self._context, user=user, command=command, args=args)
        some = not command.is_list or filters.leave_some(
            command.narrows, args, command=command.name
        )
        if not command.changes:
            found = await command.handler(call)  # other errors in it are still reported
            return found if some else Listing("", [])
        call.once = once
        # A client that disconnects does not interrupt its request's work.
        reply: Reply = await asyncio.shield(asyncio.ensure_future(command.handler(call)))
        if call.once is not None:
            await call.write(_nothing)  # there was nothing to change: a copy still counts as one
        if command.is_async:
            assert isinstance(reply, Bare)
        return reply


async def _nothing(_tx: AsyncConnection) -> None: ...


def _envelope_of(command: str) -> str:
    """Return the envelope's name for a request of *command*, which may not exist."""
    name = command.lower()
    return f"{name}response" if name in COMMANDS or name in login.NAMES else "errorresponse"


def _set_cookies(response: web.Response, cookies: Mapping[str, str], *, secure: bool) -> None:
    for name, value in cookies.items():
        if value:
            response.set_cookie(
                name, value, httponly=True, secure=secure, samesite="Strict", path="/"
            )
        else:
            response.del_cookie(name, httponly=True, secure=secure, samesite="Strict", path="/")
