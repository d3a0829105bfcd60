# SPDX-License-Identifier: Apache-2.0
"""The tokens with which hosts join a zone: create, list and revoke them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.api import views
from fastdl.manager.api.filters import By, Contains
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Param,
    Reply,
    listed,
)
from fastdl.manager.ledger import hosts, tokens, zones
from fastdl.wire.token import new_token

TOKEN_S: Final = 24 * 3600.0


async def create(call: Call) -> Reply:
    """Create a one-time token by which one host may enrol within a day.

    With *hostid* it is for that host, reinstalled or with a stolen key: the agent that uses the
    token becomes the host, and its former key becomes invalid.
    """
    host_id = call.get("hostid")
    token = new_token(call.context.authority.sha256, for_host=host_id is not None)
    cluster = (call.get("clustername") or "default").strip() or "default"
    expires = call.now + TOKEN_S
    if host_id is None and call.get("zoneid") is None:
        raise ApiParamError("Either zoneid (a new host) or hostid (a host set up again) is needed")

    async def work(tx: AsyncConnection) -> str:
        host = await hosts.get(tx, host_id) if host_id is not None else None
        if host_id is not None and host is None:
            raise call.no_entity("hostid")
        zone_id: str = call.get("zoneid") or (host.zone if host is not None else "")
        zone = await zones.get(tx, zone_id)
        if zone is None or (host is not None and host.zone != zone_id):
            raise call.no_entity("zoneid")
        await tokens.add(
            tx,
            token,
            zone_id=zone_id,
            cluster=host.cluster if host is not None else cluster,
            replaces=host_id,
            now=call.now,
            expires=expires,
        )
        what = f"host {host.name}" if host is not None else f"zone {zone.name}"
        await call.note(tx, "HOST.TOKEN", f"enrolment token created for {what}", zone_id)
        return zone_id

    zone_id = await call.write(work)
    return Bare(
        {
            "id": token.id,
            "token": str(token),
            "zoneid": zone_id,
            "hostid": host_id,
            "expires": views.date(expires),
            "agentport": call.context.agent_port,
        }
    )


def _view(row: Row[Any], now: float) -> dict[str, Any]:
    state = "Used" if row.key_hash is not None else "Expired" if row.expires < now else "Unused"
    return {
        "id": row.id,
        "zoneid": row.zone,
        "zonename": row.zone_name,
        "clustername": row.cluster,
        "state": state,
        "created": views.date(row.created),
        "expires": views.date(row.expires),
        "hostid": row.host or row.replaces,
        "hostname": row.host_name,
    }


async def list_(call: Call) -> Reply:
    """List the tokens that were created, without their secrets."""
    async with call.context.ledger.read() as tx:
        rows = await tokens.of_zone(tx)
    return page_of(call, "hosttoken", [_view(row, call.now) for row in rows])


async def delete(call: Call) -> Reply:
    """Revoke a token. A host that used it stays; ``deleteHost`` evicts it."""

    async def work(tx: AsyncConnection) -> None:
        if not await tokens.remove(tx, call.args["id"]):
            raise call.no_entity("id")
        await call.note(tx, "HOST.TOKEN.DELETE", "enrolment token deleted")

    await call.write(work)
    return Bare({"success": True})


_TOKEN: Final = tuple(
    Field(name)
    for name in (
        "id",
        "zoneid",
        "zonename",
        "clustername",
        "state",
        "created",
        "expires",
        "hostid",
        "hostname",
    )
)

COMMANDS: Final = (
    Command(
        name="createHostToken",
        text="Create a one-time token by which a host's agent enrols in a zone",
        handler=create,
        params=(
            Param("zoneid", Kind.UUID, "the zone (not needed with hostid)"),
            Param("clustername", text="the cluster the host joins (default: default)"),
            Param("hostid", Kind.UUID, "the host that was set up again, or whose key was stolen"),
        ),
        response=(
            Field("id"),
            Field("token"),
            Field("zoneid"),
            Field("hostid"),
            Field("expires"),
            Field("agentport", "integer", "where the manager listens for agents"),
        ),
        admin=True,
        changes=True,
    ),
    Command(
        name="listHostTokens",
        text="List enrolment tokens, without their secrets",
        handler=list_,
        params=(
            Param("id", text="the token", narrows=By()),
            Param("zoneid", Kind.UUID, "by zone", narrows=By()),
            Param("hostid", Kind.UUID, "by the host that used it or that it is for", narrows=By()),
            Param("state", text="Unused, Used or Expired", narrows=By()),
            *listed(Contains(("hostname", "clustername"))),
        ),
        response=_TOKEN,
        admin=True,
    ),
    Command(
        name="deleteHostToken",
        text="Revoke an enrolment token",
        handler=delete,
        params=(Param("id", text="the token", required=True),),
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
)
