# SPDX-License-Identifier: Apache-2.0
"""The CA with which hosts and the manager authenticate each other: list it, and replace it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError
from fastdl.manager.api import views
from fastdl.manager.api.filters import Contains
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import Call, Command, Field, Kind, Param, Reply, listed
from fastdl.manager.hosts import known_ca
from fastdl.manager.ledger import hosts

NAMED: Final = 10
"""Number of hosts that a refusal lists."""


async def list_(call: Call) -> Reply:
    """List the current CA, and during a rotation the next one."""
    authority = call.context.authority
    async with call.context.ledger.read() as tx:
        rows = await hosts.of_zone(tx)
    items: list[dict[str, Any]] = []
    for ca in authority.cas:
        certificate = ca.certificate
        items.append(
            {
                "id": ca.sha256,
                "state": "Current" if ca is authority.current else "Next",
                "subject": certificate.subject.rfc4514_string(),
                "created": views.date(certificate.not_valid_before_utc.timestamp()),
                "expires": views.date(certificate.not_valid_after_utc.timestamp()),
                "hosts": sum(row.ca_sha256 == ca.sha256 for row in rows),
                "certificate": ca.pem,
            }
        )
    return page_of(call, "hostca", items)


async def start(call: Call) -> Reply:
    """Create the next CA. Hosts get its certificates when they are or become connected."""
    authority = call.context.authority
    if authority.following is not None:
        raise ApiConflictError("The CA is being rotated already: finish that first")
    files = authority.begun()

    async def work(tx: AsyncConnection) -> None:
        await known_ca.change(tx, call.context.vault, authority, files)
        text = "the rotation of the hosts' CA began: both are valid now"
        await call.note(tx, "HOST.CA.ROTATE", text)

    await call.write(work)
    await _follow(call)
    return await list_(call)


async def _follow(call: Call) -> None:
    """Do what the ledger says now, here and at the other managers."""
    s = call.context
    await known_ca.follow(s.ledger, s.vault, s.authority)
    s.notices.tell("ca")
    await s.handler.sweep()


async def finish(call: Call) -> Reply:
    """Make the next CA the only one, once every host has a certificate from it."""
    authority = call.context.authority
    if authority.following is None:
        raise ApiConflictError("No rotation of the CA is under way: start one first")
    following, files = authority.following.sha256, authority.finished()

    async def work(tx: AsyncConnection) -> None:
        await known_ca.change(tx, call.context.vault, authority, files)
        left = [row for row in await hosts.of_zone(tx) if row.ca_sha256 != following]
        if left and not call.get("forced"):
            names = ", ".join(f"{row.name} ({row.state})" for row in left[:NAMED])
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            raise ApiConflictError(
                f"{len(left)} hosts have no certificate of the next CA yet: {names}{more}. Wait "
                f"for them, delete them, or finish with forced=true: they need a new token then"
            )
        text = f"the rotation of the hosts' CA ended; {len(left)} hosts need a new token"
        await call.note(tx, "HOST.CA.ROTATE", text, level="WARN" if left else "INFO")

    await call.write(work)
    await _follow(call)
    if call.context.api_tls is not None:
        call.context.api_tls.refresh()
    return await list_(call)


_CA: Final = tuple(
    Field(name) for name in ("id", "state", "subject", "created", "expires", "hosts", "certificate")
)

COMMANDS: Final = (
    Command(
        name="listHostCas",
        text="List the CA of the hosts, and during a rotation the next one",
        handler=list_,
        params=listed(Contains(("subject",))),
        response=_CA,
        admin=True,
    ),
    Command(
        name="startHostCaRotation",
        text="Create the next CA of the hosts; both are valid until the rotation is finished",
        handler=start,
        response=_CA,
        admin=True,
        changes=True,
    ),
    Command(
        name="finishHostCaRotation",
        text="Make the next CA of the hosts the only one",
        handler=finish,
        params=(
            Param(
                "forced",
                Kind.BOOLEAN,
                "also where hosts have no certificate of it yet",
                default=False,
            ),
        ),
        response=_CA,
        admin=True,
        changes=True,
    ),
)
