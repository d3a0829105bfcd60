# SPDX-License-Identifier: Apache-2.0
"""``/client/api``: from an HTTP request to a command and back to an envelope."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from fastdl.errors import (
    ApiAuthError,
    ApiLimitError,
    ApiParamError,
    FastdlError,
)
from fastdl.manager import auth
from fastdl.manager.api import envelope, views
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Bare, Call, Command, Reply, User, read_args
from fastdl.manager.core import Core
from fastdl.manager.ledger import accounts

log = logging.getLogger(__name__)

LINE_MAX: Final = 128 << 10
"""Longest request line: a 64 KiB certificate in a GET URL, percent-encoded."""
BODY_MAX: Final = 1 << 20
BODY_S: Final = 30.0
PARAMS_MAX: Final = 256
COOL_S: Final = 0.2
"""How long an answer of 429 is held back: a client that asks again at once is then slow."""
COOLING_MAX: Final = 1000
COOKIE: Final = "JSESSIONID"
_LOGINS_PER_S: Final = 1.0


class _RefusedError(Exception):
    """No such command for this caller (*code* 401 when signed, 432 in a session), or not by
    this method (405)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Request:
    """The parameters as sent (the last of a repeated name), and by lower-case name."""

    given: Mapping[str, str]
    lower: Mapping[str, str]
    cookie: str | None
    peer: str
    method: str

    @property
    def command(self) -> str:
        return self.lower.get("command", "")


class ApiServer:
    """The handler of ``/client/api``."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._cooling = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one request; whatever happens, it is an envelope of CloudStack's."""
        started = asyncio.get_running_loop().time()
        name, code = "errorresponse", 200
        cookies: dict[str, str] = {}
        as_json = request.query.get("response", "").lower() == "json"
        known = "unknown"
        try:
            read = await self._read(request)
            as_json = read.lower.get("response", "").lower() == "json"
            if read.command.lower() in {"login", "logout"} and "signature" not in read.lower:
                known = read.command.lower()
                name = f"{known}response"
                body, cookies = await self._session(known, read)
            else:
                command, user, until = await self._authenticate(read)
                known = command.name
                name = f"{command.name.lower()}response"
                body = envelope.plain(await self._call(command, user, read, until))
        except _RefusedError as exc:
            code = exc.code
            body = envelope.error_body(code, str(exc), None if code == 401 else 9999)
        except FastdlError as exc:
            code, cscode = envelope.codes_of(exc)
            if code == 401 and (command_ := COMMANDS.get(_name_in(request))) is not None:
                name = f"{command_.name.lower()}response"
            body = envelope.error_body(code, exc.message, cscode)
            # A flood must not become one of the log, too; the metrics count it.
            level = logging.DEBUG if code == 429 else logging.INFO
            log.log(
                level, "request refused",
                extra={"command": known, "code": code, "why": exc.message},
            )  # fmt: skip
        except (DBAPIError, TimeoutError, OSError):
            log.exception("request failed", extra={"command": known})
            code = 530
            body = envelope.error_body(code, "Internal error executing command", 9999)
        self._core.services.metrics.requests.labels(known, str(code)).inc()
        self._core.services.metrics.request_seconds.observe(
            asyncio.get_running_loop().time() - started
        )
        if code == 429:
            await self._cool_down()
        return self._response(
            envelope.render(name, body, as_json=as_json), code, cookies, as_json=as_json
        )

    async def _cool_down(self) -> None:
        if self._cooling < COOLING_MAX:
            self._cooling += 1
            try:
                await asyncio.sleep(COOL_S)
            finally:
                self._cooling -= 1

    def _response(
        self,
        text: str,
        code: int,
        cookies: Mapping[str, str],
        *,
        as_json: bool,
    ) -> web.Response:
        json_type = self._core.services.settings.text("json.content.type")
        response = web.Response(
            body=text.encode(),
            status=code,
            headers={
                "Content-Type": json_type if as_json else "text/xml; charset=UTF-8",
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            },
        )
        for name, value in cookies.items():
            if value:
                response.set_cookie(
                    name, value, httponly=name == COOKIE, samesite="Strict", path="/"
                )
            else:
                response.del_cookie(name, path="/")
        return response

    async def _read(self, request: web.Request) -> _Request:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ApiParamError("A request body must not be compressed")
        pairs = list(request.query.items())
        if request.method == "POST" and request.can_read_body:
            if request.content_type not in {
                "application/x-www-form-urlencoded", "multipart/form-data",
            }:  # fmt: skip
                raise ApiParamError("A request body must be a form")
            try:
                async with asyncio.timeout(BODY_S):
                    form = await request.post()
            except TimeoutError:
                raise ApiLimitError("The request body took too long") from None
            except web.HTTPRequestEntityTooLarge:
                raise ApiParamError(f"The request is larger than {BODY_MAX} bytes") from None
            except ValueError as exc:
                raise ApiParamError("The request body cannot be read as a form") from exc
            if any(not isinstance(value, str) for value in form.values()):
                raise ApiParamError("Files cannot be uploaded here")
            pairs += [(key, str(value)) for key, value in form.items()]
        if len(pairs) > PARAMS_MAX:
            raise ApiParamError(f"More than {PARAMS_MAX} parameters")
        given = dict(pairs)
        if len(given) != len(pairs):
            log.warning("a parameter came more than once; the last one counts")
        try:
            "".join(given) and "".join(given.values()).encode()
        except UnicodeEncodeError:
            raise ApiParamError("A parameter is not valid UTF-8") from None
        lower = {key.lower(): value for key, value in given.items()}
        cookie, peer = request.cookies.get(COOKIE), request.remote or ""
        return _Request(given, lower, cookie, peer, request.method)

    # --- who calls -----------------------------------------------------------------------

    async def _authenticate(self, read: _Request) -> tuple[Command, User, float | None]:
        """Return (command, user, until when a version 3 signature may be replayed)."""
        if not read.given:
            raise _RefusedError(432, "Invalid request, no command sent")
        command = COMMANDS.get(read.command.lower())
        signed = "apikey" in read.lower or "signature" in read.lower
        until = None
        if signed:
            row, until = await self._check_signature(read)
        else:
            row = await self._check_session(read)
        if not read.command:
            raise _RefusedError(432, "Invalid request, no command sent")
        # Who may not call a command cannot tell it from one that does not exist.
        if command is None or (command.admin and not row.admin):
            if signed:
                raise _RefusedError(401, auth.UNVERIFIED)
            raise _RefusedError(432, f"Unknown API command: {read.command[:100]}")
        if not signed and command.changes and read.method != "POST":
            raise _RefusedError(405, "In a session, what changes state is sent by POST")
        user = User(id=row.id, username=row.username, account=row.account, admin=row.admin)
        self._throttle(user)
        return command, user, until

    def _throttle(self, user: User) -> None:
        """Count a request of who is who they say; administrators are not limited."""
        s = self._core.services
        if not user.admin and s.settings.flag("api.throttling.enabled"):
            self._core.quotas.take(
                user.account,
                most=s.settings.whole("api.throttling.max"),
                interval=s.settings.number("api.throttling.interval"),
                now=s.clock.steady(),
            )

    async def _check_signature(self, read: _Request) -> tuple[Row[Any], float | None]:
        s, key = self._core.services, read.lower.get("apikey", "")
        per_second = s.settings.whole("api.requests.per.second")
        # Before the key costs a look-up; with the address, because anybody can send anybody's key.
        caller = f"{read.peer} {key[:128]}"
        self._core.rates.take(caller, per_second=per_second, now=s.clock.steady())
        async with s.ledger.read() as tx:
            row = await accounts.by_key(tx, key) if key else None
        secret = row.secret_key if row is not None and row.secret_key else "nobody's key"
        good = auth.signature_matches(read.given, read.lower.get("signature", ""), secret)
        if row is None or not row.secret_key or not good:
            raise ApiAuthError(auth.UNVERIFIED)
        until = auth.expiry_of(
            read.lower,
            now=s.clock.time(),
            required=s.settings.flag("api.signature.expiry.required"),
            ahead_max=s.settings.number("api.signature.expiry.max"),
        )
        return row, until

    async def _check_session(self, read: _Request) -> Row[Any]:
        now = self._core.services.clock.time()
        session = self._core.sessions.check(read.cookie, read.lower.get("sessionkey"), now=now)
        async with self._core.services.ledger.read() as tx:
            row = await accounts.get(tx, session.user)
        if row is None or not row.enabled:
            raise ApiAuthError(auth.UNVERIFIED)
        return row

    async def _session(self, command: str, read: _Request) -> tuple[dict[str, Any], dict[str, str]]:
        """Log in or out; return (body, cookies to set)."""
        if command == "logout":
            self._core.sessions.close(read.cookie)
            return {"description": "success"}, {COOKIE: "", "sessionkey": ""}
        s, username = self._core.services, read.lower.get("username", "")
        now = s.clock.time()
        self._core.rates.take(
            f"login:{username[:128]}", per_second=_LOGINS_PER_S, now=s.clock.steady()
        )
        async with s.ledger.read() as tx:
            row = await accounts.by_name(tx, username)
        stored = row.password_hash if row is not None else auth.NO_PASSWORD
        password = read.lower.get("password", "")[:1024]
        good = await asyncio.to_thread(auth.password_matches, password, stored)
        if row is None or not good:
            await s.event("USER.LOGIN", "a login failed", level="WARN")
            raise ApiAuthError("Failed to authenticate user: please provide valid credentials")
        cookie, session = self._core.sessions.open(row.id, now=now)
        await s.event("USER.LOGIN", f"{row.username} logged in", account=row.account)
        body = {
            "username": row.username,
            "userid": row.id,
            "domainid": views.ROOT_DOMAIN,
            "timeout": int(auth.SESSION_S),
            "account": row.account,
            "firstname": row.firstname or row.username,
            "lastname": row.lastname or "",
            "type": "1" if row.admin else "0",
            "registered": "false",
            "sessionkey": session.key,
        }
        return body, {COOKIE: cookie, "sessionkey": session.key}

    # --- the call ------------------------------------------------------------------------

    async def _call(
        self, command: Command, user: User, read: _Request, until: float | None
    ) -> Reply:
        args = read_args(command, read.given)
        once = (read.lower["signature"], until) if command.changes and until is not None else None
        call = Call(core=self._core, user=user, command=command, args=args, once=once)
        if not command.changes:
            return await command.handler(call)
        # A client that hangs up does not stop half-way what its request started.
        reply: Reply = await asyncio.shield(asyncio.ensure_future(command.handler(call)))
        if command.is_async:
            assert isinstance(reply, Bare)
        return reply


def _name_in(request: web.Request) -> str:
    return request.query.get("command", "").lower()
