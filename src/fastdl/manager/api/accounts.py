# SPDX-License-Identifier: Apache-2.0
"""Users and their keys."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager import auth
from fastdl.manager.api import views
from fastdl.manager.api.spec import (
    PAGING,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
    Single,
)
from fastdl.manager.ledger import accounts


async def create_user(call: Call) -> Reply:
    """Create a user; without a role, one that may do everything but administer."""
    args = call.args
    if len(args["password"]) < 8:
        raise ApiParamError("A password has at least 8 characters")
    role = (call.get("role") or "User").lower()
    if role not in {"user", "admin"}:
        raise ApiParamError("role is either User or Admin")
    hashed = await asyncio.to_thread(auth.hash_password, args["password"])

    async def work(tx: AsyncConnection) -> Row[Any] | None:
        id_ = await accounts.create(
            tx,
            username=args["username"],
            account=call.get("account") or args["username"],
            password_hash=hashed,
            admin=role == "admin",
            now=call.now,
            firstname=call.get("firstname") or "",
            lastname=call.get("lastname") or "",
            email=call.get("email") or "",
        )
        await call.note(tx, "USER.CREATE", f"user {args['username']} created", id_)
        return await accounts.get(tx, id_)

    row = await call.write(work)
    assert row is not None
    return Single("user", views.user(row))


async def register_keys(call: Call) -> Reply:
    """Give a user a new key pair; the old one stops working."""
    if not call.user.admin and call.args["id"] != call.user.id:
        raise call.no_entity("id")

    async def work(tx: AsyncConnection) -> tuple[str, str]:
        row = await accounts.get(tx, call.args["id"])
        if row is None:
            raise call.no_entity("id")
        text = f"new keys for user {row.username}"
        await call.note(tx, "REGISTER.USER.SECRET.KEY", text, row.id)
        return await accounts.new_keys(tx, row.id)

    keys = await call.write(work)
    return Single("userkeys", {"apikey": keys[0], "secretkey": keys[1]})


async def list_users(call: Call) -> Reply:
    """The users; who is no administrator sees only themselves."""
    async with call.core.services.ledger.read() as tx:
        rows = await accounts.all_users(tx)
    kept = [
        row
        for row in rows
        if (call.user.admin or row.id == call.user.id)
        and call.get("username") in {None, row.username}
        and call.get("id") in {None, row.id}
    ]
    first, size = call.page()
    return Listing("user", [views.user(r) for r in kept[first : first + size]], len(kept))


async def get_user(call: Call) -> Reply:
    """The user an API key belongs to (command-line clients ask this to see who they are)."""
    async with call.core.services.ledger.read() as tx:
        row = await accounts.by_key(tx, call.args["userapikey"])
    if row is None or not (call.user.admin or row.id == call.user.id):
        raise ApiParamError("There is no user with this API key")
    return Single("user", views.user(row))


async def logout(_call: Call) -> Reply:
    """Answered for completeness: a signed request has no session to end."""
    return Bare({"description": "success"})


_USER: Final = tuple(
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
        response=_USER,
        admin=True,
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
        params=(Param("id", Kind.UUID), Param("username"), *PAGING),
        response=_USER,
    ),
    Command(
        name="getUser",
        text="The user of an API key",
        handler=get_user,
        params=(Param("userapikey", text="the API key", required=True),),
        response=_USER,
    ),
    Command(name="logout", text="End a session", handler=logout),
)
