# SPDX-License-Identifier: Apache-2.0
"""How virtual machines look in responses, and the one offering they are made of."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.manager.api import views
from fastdl.manager.api.catalog import DEFAULT_OS, OS_NAMES
from fastdl.manager.api.spec import ROOT_DOMAIN
from fastdl.manager.ledger import hosts, pools, templates, vms, zones

MIB: Final = 1 << 20
OFFERING_ID: Final = str(uuid.uuid5(uuid.NAMESPACE_DNS, "offering.fastdl.internal"))
OFFERING: Final[dict[str, Any]] = {
    "id": OFFERING_ID,
    "name": "Custom",
    "displaytext": "As many processors and as much memory as are asked for",
    "iscustomized": True,
    "issystem": False,
    "defaultuse": False,
    "storagetype": "shared",
    "provisioningtype": "thin",
    "offerha": False,
    "limitcpuuse": False,
    "isvolatile": False,
    "state": "Active",
}
"""The one service offering."""


async def items(tx: AsyncConnection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Return machines as responses show them."""
    zone_names = await zones.names(tx)
    known_hosts = await hosts.by_id(tx, {row.host for row in rows})
    known_pools = {row.id: row for row in await pools.of_zone(tx)}
    known_templates = {id_: await templates.get(tx, id_) for id_ in {row.template for row in rows}}
    return [
        _item(
            row,
            zone_names.get(row.zone),
            known_hosts.get(row.host),
            known_pools.get(row.pool),
            known_templates[row.template],
        )
        for row in rows
    ]


async def item(tx: AsyncConnection, id_: str) -> dict[str, Any] | None:
    """Return one machine, also one that was removed; None where nothing is known of it."""
    row = await vms.get(tx, id_)
    return (await items(tx, [row]))[0] if row is not None else None


def _item(
    row: Row[Any],
    zone_name: str | None,
    host: Row[Any] | None,
    pool: Row[Any] | None,
    template: Row[Any] | None,
) -> dict[str, Any]:
    at_host = row.state not in {vms.STOPPED, vms.DESTROYED, vms.ERROR}
    os_type = template.os_type if template is not None else None
    found = {
        "id": row.id,
        "name": row.name,
        "displayname": row.display_name,
        "account": row.account,
        "userid": row.owner,
        "domainid": ROOT_DOMAIN,
        "domain": "ROOT",
        "created": views.date(row.created),
        "state": row.state,
        "haenable": False,
        "displayvm": True,
        "zoneid": row.zone,
        "zonename": zone_name,
        # As in CloudStack a machine that does not run is on no host; ours returns to the last.
        "hostid": row.host if at_host else None,
        "hostname": host.name if host is not None and at_host else None,
        "lasthostid": row.host,
        "templateid": row.template,
        "templatename": template.name if template is not None else None,
        "templatedisplaytext": template.display_text if template is not None else None,
        "passwordenabled": False,
        "serviceofferingid": OFFERING_ID,
        "serviceofferingname": OFFERING["name"],
        "cpunumber": row.processors,
        "memory": row.memory // MIB,
        "guestosid": os_type,
        "osdisplayname": OS_NAMES.get(os_type or "", DEFAULT_OS),
        "rootdeviceid": 0,
        "rootdevicetype": "ROOT",
        "rootdisksize": row.disk_size,
        "storageid": row.pool,
        "storagename": pool.name if pool is not None else None,
        "hypervisor": "KVM",
        "accelerated": row.accelerated,
        "instancename": f"fastdl-{row.id}",
        "isdynamicallyscalable": False,
        "nic": [],
        "securitygroup": [],
        "affinitygroup": [],
        "tags": [],
        "error": row.note or None,
    }
    if row.iso:
        found |= {
            "isoid": row.template,
            "isoname": found["templatename"],
            "isodisplaytext": found["templatedisplaytext"],
        }
    return found
