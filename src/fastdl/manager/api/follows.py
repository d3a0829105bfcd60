# SPDX-License-Identifier: Apache-2.0
"""Names that follow a publisher's product: what is known, check now, stop."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import Bare, Call, Command, Field, Kind, Param, Reply, listed
from fastdl.manager.ledger import follows
from fastdl.publishers.simplestreams import is_product

FOLLOW: Final = "fastdl.follow"
KEEP: Final = "fastdl.keep"
KEEP_DEFAULT: Final = 1
KEEP_MAX: Final = 100
NAME_MAX: Final = 180


class Wish(NamedTuple):
    """*keep*: how many older versions stay."""

    keep: int


def take_wish(call: Call, details: dict[str, str]) -> Wish | None:
    """What *details*, which lose it, say of following the product that *call* registers.

    ApiParamError where that cannot be followed.
    """
    wanted, keep = details.pop(FOLLOW, None), details.pop(KEEP, None)
    if wanted is None and keep is None:
        return None
    if wanted not in {"true", "false"} or (keep is not None and wanted != "true"):
        raise ApiParamError(f"The detail {FOLLOW} is true or false; {KEEP} needs {FOLLOW}=true")
    if wanted == "false":
        return None
    if not call.user.admin:
        raise ApiParamError("Only administrators can have a template follow a product")
    if not is_product(call.args["url"]) or "@" in call.args["url"].partition("#")[2]:
        raise ApiParamError(
            f"{FOLLOW} needs a product without a version as url: "
            "simplestreams:URL#OS:RELEASE:ARCH:FILE"
        )
    if len(call.args["name"]) > NAME_MAX:
        raise ApiParamError(f"The name of a template that follows has at most {NAME_MAX} letters")
    if keep is not None and not (keep.isascii() and keep.isdigit() and int(keep) <= KEEP_MAX):
        raise ApiParamError(f"{KEEP} is a number from 0 to {KEEP_MAX}")
    return Wish(int(keep) if keep is not None else KEEP_DEFAULT)


async def list_(call: Call) -> Reply:
    """List what is followed, with the current and the next version."""
    async with call.context.ledger.read() as tx:
        rows = await follows.every(tx)
        known = {row.id: await follows.versions(tx, row.id) for row in rows}
    return page_of(call, "templatefollow", [_view(row, known[row.id]) for row in rows])


def _view(row: Row[Any], known: list[Row[Any]]) -> dict[str, Any]:
    by_state = {one.state: one for one in known if one.state != follows.OLD}
    item: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "url": row.product,
        "keep": row.keep,
        "error": row.error,
        "created": views.date(row.created),
        "oldversions": [one.version for one in known if one.state == follows.OLD],
    }
    for state, prefix in ((follows.CURRENT, ""), (follows.NEXT, "next")):
        if state in by_state:
            item[f"{prefix}templateid"] = by_state[state].id
            item[f"{prefix}version"] = by_state[state].version
    return item


async def check(call: Call) -> Reply:
    """Ask the publisher within seconds, not only when the interval is over."""

    async def work(tx: AsyncConnection) -> None:
        row = await follows.get(tx, call.args["id"])
        if row is None or not await follows.set_due(tx, row.id, 0.0):
            raise call.no_entity("id")
        await call.note(tx, "TEMPLATE.FOLLOW.CHECK", f"the publisher of {row.name} is asked now")

    await call.write(work)
    return Bare({"success": True})


async def delete(call: Call) -> Reply:
    """Stop following; its templates stay as they are."""

    async def work(tx: AsyncConnection) -> None:
        row = await follows.get(tx, call.args["id"])
        if row is None or not await follows.remove(tx, row.id):
            raise call.no_entity("id")
        await call.note(tx, "TEMPLATE.FOLLOW.END", f"{row.name} is followed no more")

    await call.write(work)
    return Bare({"success": True})


_ID: Final = Param("id", Kind.UUID, "of listTemplateFollows", required=True)
_SUCCESS: Final = (Field("success", "boolean"),)

COMMANDS: Final = (
    Command(
        name="listTemplateFollows",
        text="List the templates that follow a publisher's product (registerTemplate with the "
        "detail fastdl.follow=true)",
        handler=list_,
        params=listed(),
        response=(
            Field("id"),
            Field("name", text="that the newest version has once its copies are in place"),
            Field("url", text="the product"),
            Field("templateid", text="the current version"),
            Field("version"),
            Field("nexttemplateid", text="a newer version that is being brought to the pools"),
            Field("nextversion"),
            Field("oldversions", "list", "those that are kept"),
            Field("keep", "integer", "how many older versions are kept"),
            Field("error", text="why the last check, or a download, failed"),
            Field("created"),
        ),
        admin=True,
    ),
    Command(
        name="checkTemplateFollow",
        text="Ask the publisher for a new version now",
        handler=check,
        params=(_ID,),
        response=_SUCCESS,
        admin=True,
        changes=True,
    ),
    Command(
        name="deleteTemplateFollow",
        text="Stop following a product; its templates stay",
        handler=delete,
        params=(_ID,),
        response=_SUCCESS,
        admin=True,
        changes=True,
    ),
)
