# SPDX-License-Identifier: Apache-2.0
"""Users and their keys."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiAuthError, ApiParamError
from fastdl.manager import sealed
from fastdl.manager.access import auth
from fastdl.manager.api import views
from fastdl.manager.api.filters import READ, By, Contains, Is, Refused
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    IN_DOMAIN,
    Bare,
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
from fastdl.manager.ledger.engine import Work

SYSTEM: Final = "system"
"""Owner of events without a caller: of hosts, and of everybody's downloads."""
FIRST: Final = "admin"
"""The user created at the first start."""
PASSWORD_MIN: Final = 8


async def _hashed(password: str) -> str:
    if not len(password) >= PASSWORD_MIN:
        raise ApiParamError(f"A password has at least {PASSWORD_MIN} characters")
    return await asyncio.to_thread(auth.hash_password, password)


async def named(call: Call, tx: AsyncConnection) -> Row[Any]:
    """Return the user that ``id`` names, if the caller may see them."""
    row = await accounts.get(tx, call.args["id"])
    if row is None or not (call.user.admin or row.id == call.user.id):
        raise call.no_entity("id")
    return row


async def create_in(
    call: Call,
    account: str,
    *,
    admin: bool | None = None,
    before: Work[None] | None = None,
) -> Row[Any]:
    """Create the user that *call* describes in *account*, after what *before* checks; *admin* None
    = as ``role`` says."""
    args = call.args
    role = (call.get("role") or "User").lower()
    if role not in {"user", "admin"}:
        raise ApiParamError("role is either User or Admin")
    if account == SYSTEM:
        raise ApiParamError(f"The account {SYSTEM} is the manager's own")
    hashed = await _hashed(args["password"])

    async def work(tx: AsyncConnection) -> Row[Any]:
        if before is not None:
            await before(tx)
        id_ = await accounts.create(
            tx,
            username=args["username"],
            account=account,
            password_hash=hashed,
            admin=role == "admin" if admin is None else admin,
            now=call.now,
            firstname=call.get("firstname") or "",
            lastname=call.get("lastname") or "",
            email=call.get("email") or "",
        )
        await call.note(tx, "USER.CREATE", f"user {args['username']} created", id_)
        row = await accounts.get(tx, id_)
        assert row is not None
        return row

    return await call.write(work)


async def create_user(call: Call) -> Reply:
    """Create a user; without a role, one who is not an administrator."""
    row = await create_in(call, call.get("account") or call.args["username"])
    return Single("user", views.user(row))


async def register_keys(call: Call) -> Reply:
    """Give a user a new key pair; the old one stops working, and so do the user's sessions, except
    the caller's."""

    vault = call.context.vault

    async def work(tx: AsyncConnection) -> tuple[str, str]:
        row = await named(call, tx)
        text = f"new keys for user {row.username}"
        await call.note(tx, "REGISTER.USER.SECRET.KEY", text, row.id)
        await call.context.sessions.end_user(tx, row.id, but=call.user.cookie)
        return await accounts.new_keys(
            tx, row.id, seal=functools.partial(sealed.seal_secret_key, vault)
        )

    keys = await call.write(work)
    call.context.sessions.ended_user(call.args["id"], but=call.user.cookie)
    return Single("userkeys", {"apikey": keys[0], "secretkey": keys[1]})


async def update_user(call: Call) -> Reply:
    """Change a user: names and address, and the password, which ends their other sessions."""
    values = {name: call.args[name] for name in _OWN if call.get(name) is not None}
    password = call.get("password")
    async with call.context.ledger.read() as tx:
        row = await named(call, tx)
    if call.get("username") is not None:
        if not call.user.admin or row.username == FIRST:
            raise ApiParamError("This user's name cannot be changed")
        values["username"] = call.args["username"]
    if password is not None:
        if row.id == call.user.id:
            await _check_current(call, row)
        values["password_hash"] = await _hashed(password)
    if not values:
        raise ApiParamError("Specify what to change: a name, the email or the password")

    async def work(tx: AsyncConnection) -> Row[Any]:
        await named(call, tx)
        await accounts.change(tx, row.id, values)
        changed = await named(call, tx)
        await call.note(tx, "USER.UPDATE", f"user {changed.username} changed", row.id)
        if password is not None:
            await call.context.sessions.end_user(tx, row.id, but=call.user.cookie)
        return changed

    changed = await call.write(work)
    if password is not None:
        call.context.sessions.ended_user(row.id, but=call.user.cookie)
    return Single("user", views.user(changed))


async def _check_current(call: Call, row: Row[Any]) -> None:
    """Changing one's own password requires the current one, in case somebody else is at the
    screen."""
    current = call.get("currentpassword")
    if current is None:
        raise ApiParamError("To change your own password, give currentpassword")
    try:
        await call.context.logins.check(
            row.username, current, row.password_hash, address=call.user.address
        )
    except ApiAuthError:
        raise ApiParamError("Current password is incorrect") from None


async def list_users(call: Call) -> Reply:
    """List users; a caller who is not an administrator sees only themselves."""
    async with call.context.ledger.read() as tx:
        rows = await accounts.all_users(tx)
    own = call.get("listall") is False
    seen = [
        row
        for row in rows
        if row.id == call.user.id
        or (call.user.admin and not (own and row.account != call.user.account))
    ]
    return page_of(call, "user", [views.user(row) for row in seen])


async def get_user(call: Call) -> Reply:
    """Return the user an API key belongs to (command-line clients use this to identify
    themselves)."""
    async with call.context.ledger.read() as tx:
        row = await accounts.by_key(tx, call.args["userapikey"])
    if row is None or not (call.user.admin or row.id == call.user.id):
        raise ApiParamError("There is no user with this API key")
    return Single("user", views.user(row))


async def logout(_call: Call) -> Reply:
    """Supported for completeness: a signed request has no session to end."""
    return Bare({"description": "success"})


NO_KEY_ACCESS: Final = Refused("an enabled user's keys cannot be disabled")
_OWN: Final = ("firstname", "lastname", "email")
USER: Final = tuple(
    Field(n) for n in ("id", "username", "account", "accounttype", "state", "created", "apikey")
)

COMMANDS: Final = (
    Command(
        name="createUser",
        text="Create a user",
        handler=create_user,
        params=(
            Param("username", required=True),
            Param("password", required=True),
            Param("firstname"),
            Param("lastname"),
            Param("email"),
            Param("account", text="the account (default: the user's name)"),
            Param("role", text="User or Admin (default: User)"),
        ),
        response=USER,
        admin=True,
        changes=True,
    ),
    Command(
        name="updateUser",
        text="Change a user's names, email or password",
        handler=update_user,
        params=(
            Param("id", Kind.UUID, "the user", required=True),
            Param("username", text="a new name (administrators)"),
            Param("firstname"),
            Param("lastname"),
            Param("email"),
            Param("password", text="a new password"),
            Param("currentpassword", text="the current one, to change one's own"),
        ),
        response=USER,
        changes=True,
    ),
    Command(
        name="registerUserKeys",
        text="Give a user a new pair of API key and secret key",
        handler=register_keys,
        params=(Param("id", Kind.UUID, "the user", required=True),),
        response=(Field("apikey"), Field("secretkey")),
        changes=True,
    ),
    Command(
        name="listUsers",
        text="List users",
        handler=list_users,
        params=(
            Param("id", Kind.UUID, "the user", narrows=By()),
            Param("username", text="by name", narrows=By()),
            Param("account", text="by account", narrows=By()),
            Param(
                "accounttype", Kind.INTEGER, "0 = users, 1 = administrators", least=0, narrows=By()
            ),
            IN_DOMAIN,
            Param("state", text="enabled, disabled or locked", narrows=By()),
            Param("usersource", text="all users are native", narrows=Is("native")),
            Param("apikeyaccess", text="refused", narrows=NO_KEY_ACCESS),
            *listed(Contains(("username",)), listall=READ),
        ),
        response=USER,
    ),
    Command(
        name="getUser",
        text="The user of an API key",
        handler=get_user,
        params=(Param("userapikey", text="the API key", required=True),),
        response=USER,
    ),
    Command(name="logout", text="End a session", handler=logout),
)
