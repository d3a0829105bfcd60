# SPDX-License-Identifier: Apache-2.0
"""``login`` and ``logout``: the two commands without a signature, for the page and for clients
that are given a password."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row

from fastdl.errors import ApiAuthError, ApiParamError, FastdlError
from fastdl.manager.access import sessions
from fastdl.manager.access.auth import UNVERIFIED
from fastdl.manager.access.rates import network_of
from fastdl.manager.api.context import ApiContext
from fastdl.manager.api.request import COOKIE, ApiRequest
from fastdl.manager.api.spec import ROOT_DOMAIN
from fastdl.manager.ledger import accounts

NAMES: Final = frozenset({"login", "logout"})
PASSWORD_MAX: Final = 1024
NAME_MAX: Final = 64
KEY_COOKIE: Final = "sessionkey"
"""Command-line clients read the session's key from this cookie; it is not accepted as one."""

Answer = tuple[dict[str, Any], dict[str, str]]
"""(body, cookies to set; an empty one is deleted)."""


async def logout(context: ApiContext, read: ApiRequest) -> Answer:
    """End the session of the request's cookie."""
    await context.sessions.close(read.cookie)
    return {"description": "success"}, {COOKIE: "", KEY_COOKIE: ""}


async def login(context: ApiContext, read: ApiRequest) -> Answer:
    """Open a session; ApiAuthError or ApiLimitError if this caller gets none."""
    if "password" in read.in_query:
        raise ApiParamError("A password is sent in the request's body, not in its URL")
    if read.cross_site:
        raise ApiAuthError(UNVERIFIED)
    s, name = context, read.lower.get("username", "")
    async with s.ledger.read() as tx:
        row = await accounts.by_name(tx, name)
    stored = row.password_hash if row is not None else None
    password = read.lower.get("password", "")[:PASSWORD_MAX]
    try:
        await context.logins.check(name, password, stored, address=read.address)
    except FastdlError:
        s.metrics.logins.labels("failed").inc()
        await _tell(context, read, name, row, good=False)
        raise
    assert row is not None
    s.metrics.logins.labels("succeeded").inc()
    await _tell(context, read, name, row, good=True)
    session = await context.sessions.open(row.id, now=s.clock.steady())
    body = {
        "username": row.username,
        "userid": row.id,
        "domainid": ROOT_DOMAIN,
        "timeout": int(sessions.IDLE_S),
        "account": row.account,
        "firstname": row.firstname or row.username,
        "lastname": row.lastname or "",
        "type": "1" if row.admin else "0",
        "registered": "false",
        "sessionkey": session.key,
    }
    return body, {COOKIE: session.cookie, KEY_COOKIE: session.key}


async def _tell(
    context: ApiContext, read: ApiRequest, name: str, row: Row[Any] | None, *, good: bool
) -> None:
    """Store an event for a login or a failed one, with its address, within limits."""
    s = context
    reports = context.login_reports if good else context.failure_reports
    left_out = reports.due(f"{network_of(read.address)} {name[:255]}", now=s.clock.steady())
    if left_out is None:
        return
    text = f"{printable(name)} logged in from {read.address}"
    if not good:
        text = f"a login as {printable(name)} from {read.address} failed"
    if left_out:
        text += f" ({left_out} more since the last report)"
    await s.events.record(
        "USER.LOGIN",
        text,
        level="INFO" if good else "WARN",
        username=name[:NAME_MAX],
        account=row.account if row is not None else "system",
        address=read.address,
    )


def printable(name: str) -> str:
    """Return a name that anybody may have typed, as it can stand in an event."""
    short = name if len(name) <= NAME_MAX else f"{name[:NAME_MAX]}…"
    return "".join(c if c.isprintable() else "?" for c in short) or "nobody"
