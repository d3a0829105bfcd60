# SPDX-License-Identifier: Apache-2.0
"""Accounts and the one domain, as CloudStack's clients ask for them before they create users."""

from __future__ import annotations

import uuid
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.accounts import NO_KEY_ACCESS, create_in
from fastdl.manager.api.filters import READ, SHOWS, By, Is
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    ROOT_DOMAIN,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.ledger import accounts

_STATES: Final = ("enabled", "locked", "disabled")
"""An account is in the first of them that one of its users is in."""
_ACCOUNTS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "accounts.fastdl.internal")
USER, ADMIN = 0, 1
"""Supported account types; 2, a domain administrator, is not."""


def account_view(name: str, users: list[Row[Any]]) -> dict[str, Any]:
    """An account: a name that users share."""
    admin = any(user.admin for user in users)
    return {
        "id": str(uuid.uuid5(_ACCOUNTS, name)),
        "name": name,
        "accounttype": ADMIN if admin else USER,
        "roletype": "Admin" if admin else "User",
        "domainid": ROOT_DOMAIN,
        "domain": "ROOT",
        "state": min((views.state_of(user) for user in users), key=_STATES.index),
        "user": [views.user(user) for user in users],
    }


async def create_account(call: Call) -> Reply:
    """Create an account with its first user."""
    kind, role = call.get("accounttype"), call.get("role")
    if kind is None and role is None:
        raise ApiParamError("Neither account type and role ID are not provided")
    if kind is not None and kind not in {USER, ADMIN}:
        raise ApiParamError("accounttype is either 0 (user) or 1 (administrator)")
    name = call.get("account") or call.args["username"]
    admin = kind == ADMIN if kind is not None else None

    async def before(tx: AsyncConnection) -> None:
        if any(user.account == name for user in await accounts.all_users(tx)):
            raise ApiConflictError(f"The account {name} already exists")

    row = await create_in(call, name, admin=admin, before=before)
    return Single("account", account_view(name, [row]))


async def list_accounts(call: Call) -> Reply:
    """List accounts; a caller who is not an administrator sees only their own."""
    async with call.context.ledger.read() as tx:
        rows = await accounts.all_users(tx)
    own = call.get("listall") is False
    by_name: dict[str, list[Row[Any]]] = {}
    for row in rows:
        if row.account == call.user.account or (call.user.admin and not own):
            by_name.setdefault(row.account, []).append(row)
    items = [account_view(name, users) for name, users in sorted(by_name.items())]
    if not call.user.admin:  # of others in the account nothing but that it is theirs
        for item in items:
            item["user"] = [user for user in item["user"] if user["id"] == call.user.id]
    return page_of(call, "account", items)


async def list_domains(call: Call) -> Reply:
    """List domains; there is one, ROOT."""
    item = {
        "id": ROOT_DOMAIN,
        "name": "ROOT",
        "level": 0,
        "haschild": False,
        "path": "ROOT",
        "state": "Active",
    }
    return page_of(call, "domain", [item])


ACCOUNT: Final = tuple(
    Field(name) for name in ("id", "name", "accounttype", "domainid", "domain", "state", "user")
)

COMMANDS: Final = (
    Command(
        name="createAccount",
        text="Create an account with its first user",
        handler=create_account,
        params=(
            Param("username", text="the user's name", required=True),
            Param("password", text="at least 8 characters", required=True),
            Param("firstname", required=True),
            Param("lastname", required=True),
            Param("email", required=True),
            Param("account", text="the account's name (default: the user's)"),
            Param("accounttype", Kind.INTEGER, "0 = user, 1 = administrator", least=0),
            Param("role", text="User or Admin, instead of accounttype"),
            Param("domainid", Kind.UUID, "the domain: there is one"),
        ),
        response=ACCOUNT,
        admin=True,
        changes=True,
    ),
    Command(
        name="listAccounts",
        text="List accounts",
        handler=list_accounts,
        params=(
            Param("id", Kind.UUID, "the account", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param(
                "accounttype", Kind.INTEGER, "0 = users, 1 = administrators", least=0, narrows=By()
            ),
            IN_DOMAIN,
            Param("state", text="enabled, disabled or locked", narrows=By()),
            Param("iscleanuprequired", Kind.BOOLEAN, "none is", narrows=Is(value=False)),
            Param("apikeyaccess", text="refused", narrows=NO_KEY_ACCESS),
            Param("details", text="accepted: all are shown", narrows=SHOWS),
            Param("tag", text="accepted: limits have no tags", narrows=SHOWS),
            *listed(listall=READ),
        ),
        response=ACCOUNT,
    ),
    Command(
        name="listDomains",
        text="List domains: there is one, ROOT",
        handler=list_domains,
        params=(
            Param("id", Kind.UUID, "the domain", narrows=By()),
            Param("name", text="by name", narrows=By()),
            Param("level", Kind.INTEGER, "by level", least=0, narrows=By()),
            Param("details", text="accepted: all are shown", narrows=SHOWS),
            Param("tag", text="accepted: limits have no tags", narrows=SHOWS),
            *listed(),
        ),
        response=(Field("id"), Field("name"), Field("level", "integer"), Field("path")),
    ),
)
