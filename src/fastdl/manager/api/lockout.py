# SPDX-License-Identifier: Apache-2.0
"""Users and whole accounts that are disabled, locked, enabled again, or deleted.

An account is the name that its users share: what is done to it is done to each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.accounts import FIRST, USER, named
from fastdl.manager.api.domains import ACCOUNT, account_view
from fastdl.manager.api.spec import (
    JOB,
    ROOT_DOMAIN,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    Single,
)
from fastdl.manager.ledger import accounts, records

_DISABLED: Final = {"enabled": False, "locked": False}
_LOCKED: Final = {"enabled": False, "locked": True}
_ENABLED: Final = {"enabled": True, "locked": False}


def _check_others(call: Call, users: Sequence[Row[Any]], what: str) -> None:
    """ApiParamError where the caller or the first user is among *users*: somebody must remain who
    can undo it."""
    for row in users:
        if row.id == call.user.id or row.username == FIRST:
            raise ApiParamError(f"The user {row.username} cannot be {what}")


async def _other(call: Call, tx: AsyncConnection, what: str) -> Row[Any]:
    row = await named(call, tx)
    _check_others(call, [row], what)
    return row


async def _job(
    call: Call, tx: AsyncConnection, kind: str, instance: str, result: dict[str, Any]
) -> str:
    """Store an API job that has already succeeded."""
    job = await records.add_api_job(
        tx,
        owner=call.user.id,
        command=call.command.name,
        now=call.now,
        instance_type=kind,
        instance=instance,
    )
    await records.complete_api_job(tx, job, status=records.SUCCEEDED, result=result, now=call.now)
    return job


# --- users ---------------------------------------------------------------------------------------


async def disable_user(call: Call) -> Reply:
    """Disable a user: keys, password and sessions stop working."""

    async def work(tx: AsyncConnection) -> str:
        row = await _other(call, tx, "disabled")
        await accounts.change(tx, row.id, _DISABLED)
        await call.note(tx, "USER.DISABLE", f"user {row.username} disabled", row.id)
        await call.context.sessions.end_user(tx, row.id)
        return await _job(call, tx, "User", row.id, {"user": views.user(await named(call, tx))})

    job = await call.write(work)
    call.context.sessions.ended_user(call.args["id"])
    return Bare({"jobid": job})


async def lock_user(call: Call) -> Reply:
    """As disableUser, synchronously, and shown as locked."""

    async def work(tx: AsyncConnection) -> Row[Any]:
        row = await _other(call, tx, "locked")
        await accounts.change(tx, row.id, _LOCKED)
        await call.note(tx, "USER.LOCK", f"user {row.username} locked", row.id)
        await call.context.sessions.end_user(tx, row.id)
        return await named(call, tx)

    row = await call.write(work)
    call.context.sessions.ended_user(row.id)
    return Single("user", views.user(row))


async def enable_user(call: Call) -> Reply:
    """Enable a disabled or locked user again."""

    async def work(tx: AsyncConnection) -> Row[Any]:
        row = await named(call, tx)
        await accounts.change(tx, row.id, _ENABLED)
        await call.note(tx, "USER.ENABLE", f"user {row.username} enabled", row.id)
        return await named(call, tx)

    return Single("user", views.user(await call.write(work)))


async def delete_user(call: Call) -> Reply:
    """Delete a user; the user's templates stay, for administrators."""

    async def work(tx: AsyncConnection) -> None:
        row = await _other(call, tx, "deleted")
        await accounts.remove(tx, row.id)
        await call.note(tx, "USER.DELETE", f"user {row.username} deleted", row.id)
        await call.context.sessions.end_user(tx, row.id)

    await call.write(work)
    call.context.sessions.ended_user(call.args["id"])
    return Bare({"success": True})


# --- accounts ------------------------------------------------------------------------------------


async def _users_of(call: Call, tx: AsyncConnection) -> list[Row[Any]]:
    """Return the users of the account that ``id`` or ``account`` names."""
    id_, name = call.get("id"), call.get("account")
    if id_ is None and name is None:
        raise ApiParamError("Specify the account: by id, or by account and domainid")
    if call.get("domainid") not in {None, ROOT_DOMAIN}:
        raise call.no_entity("domainid")
    found: dict[str, list[Row[Any]]] = {}
    for row in await accounts.all_users(tx):
        found.setdefault(row.account, []).append(row)
    for known, users in found.items():
        view = account_view(known, users)
        if id_ in {None, view["id"]} and name in {None, known}:
            return users
    raise call.no_entity("id" if id_ is not None else "account")


async def _change_account(
    call: Call, tx: AsyncConnection, values: dict[str, bool], what: str
) -> dict[str, Any]:
    """Change every user of an account; return the account as it is then."""
    users = await _users_of(call, tx)
    if not values["enabled"]:
        _check_others(call, users, what)
    for row in users:
        await accounts.change(tx, row.id, values)
        if not values["enabled"]:
            await call.context.sessions.end_user(tx, row.id)
    name = users[0].account
    await call.note(tx, f"ACCOUNT.{_EVENTS[what]}", f"account {name} {what}", name)
    return account_view(name, await _users_of(call, tx))


_EVENTS: Final = {"disabled": "DISABLE", "locked": "LOCK", "enabled": "ENABLE"}


def _close_sessions(call: Call, account: dict[str, Any]) -> None:
    for user in account["user"]:
        call.context.sessions.ended_user(user["id"])


async def disable_account(call: Call) -> Reply:
    """Disable all users of an account; with ``lock`` they are shown as locked."""
    locked = bool(call.get("lock"))

    async def work(tx: AsyncConnection) -> tuple[str, dict[str, Any]]:
        values, what = (_LOCKED, "locked") if locked else (_DISABLED, "disabled")
        account = await _change_account(call, tx, values, what)
        return await _job(call, tx, "Account", account["id"], {"account": account}), account

    job, account = await call.write(work)
    _close_sessions(call, account)
    return Bare({"jobid": job})


async def lock_account(call: Call) -> Reply:
    """As disableAccount with ``lock``, synchronously."""
    account = await call.write(lambda tx: _change_account(call, tx, _LOCKED, "locked"))
    _close_sessions(call, account)
    return Single("account", account)


async def enable_account(call: Call) -> Reply:
    """Enable all users of an account again."""
    return Single(
        "account", await call.write(lambda tx: _change_account(call, tx, _ENABLED, "enabled"))
    )


async def delete_account(call: Call) -> Reply:
    """Delete all users of an account; its templates stay, for administrators."""

    async def work(tx: AsyncConnection) -> tuple[str, dict[str, Any]]:
        users = await _users_of(call, tx)
        _check_others(call, users, "deleted")
        for row in users:
            await accounts.remove(tx, row.id)
            await call.context.sessions.end_user(tx, row.id)
        account = account_view(users[0].account, users)
        await call.note(tx, "ACCOUNT.DELETE", f"account {account['name']} deleted", account["name"])
        return await _job(call, tx, "Account", account["id"], {"success": True}), account

    job, account = await call.write(work)
    _close_sessions(call, account)
    return Bare({"jobid": job})


_ID: Final = (Param("id", Kind.UUID, "the user", required=True),)
_WHICH: Final = (
    Param("id", Kind.UUID, "the account"),
    Param("account", text="the account, by name"),
    Param("domainid", Kind.UUID, "the domain: there is one"),
)

COMMANDS: Final = (
    Command(
        name="disableUser",
        text="Disable a user: keys, password and sessions stop working",
        handler=disable_user,
        params=_ID,
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    ),
    Command(
        name="lockUser",
        text="Disable a user, synchronously, and show the user as locked",
        handler=lock_user,
        params=_ID,
        response=USER,
        admin=True,
        changes=True,
    ),
    Command(
        name="enableUser",
        text="Enable a disabled or locked user again",
        handler=enable_user,
        params=_ID,
        response=USER,
        admin=True,
        changes=True,
    ),
    Command(
        name="deleteUser",
        text="Delete a user; the user's templates stay, for administrators",
        handler=delete_user,
        params=_ID,
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
    Command(
        name="disableAccount",
        text="Disable all users of an account",
        handler=disable_account,
        params=(
            *_WHICH,
            Param("lock", Kind.BOOLEAN, "show them as locked, not as disabled", required=True),
        ),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    ),
    Command(
        name="lockAccount",
        text="Disable all users of an account, synchronously, and show it as locked",
        handler=lock_account,
        params=_WHICH,
        response=ACCOUNT,
        admin=True,
        changes=True,
    ),
    Command(
        name="enableAccount",
        text="Enable all users of an account again",
        handler=enable_account,
        params=_WHICH,
        response=ACCOUNT,
        admin=True,
        changes=True,
    ),
    Command(
        name="deleteAccount",
        text="Delete all users of an account; its templates stay, for administrators",
        handler=delete_account,
        params=(Param("id", Kind.UUID, "the account", required=True),),
        response=JOB,
        admin=True,
        changes=True,
        is_async=True,
    ),
)
