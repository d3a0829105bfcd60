# SPDX-License-Identifier: Apache-2.0
"""What clients of a zone's API see."""

from __future__ import annotations

from typing import Any

from fastdl.lab.certs import self_signed
from tests.env.manager import Zone


async def host_state(zone: Zone, name: str) -> str:
    """The state that listHosts shows."""
    answer = await zone.api("listHosts", name=name)
    state: str = answer["host"][0]["state"]
    return state


async def upload(zone: Zone, name: str, pem: str | None = None) -> dict[str, Any]:
    """Upload a certificate to the zone."""
    answer = await zone.api(
        "uploadTemplateDirectDownloadCertificate",
        certificate=pem or self_signed(),
        name=name,
        hypervisor="KVM",
        zoneid=zone.id,
    )
    item: dict[str, Any] = answer["uploadtemplatedirectdownloadcertificate"]
    return item


async def enough(items: list[Any], count: int) -> bool:
    """Whether *items* has at least *count*."""
    return len(items) >= count


async def events_of(zone: Zone, type_: str) -> list[dict[str, Any]]:
    """The events of a type."""
    events: list[dict[str, Any]] = (await zone.api("listEvents", type=type_)).get("event", [])
    return events
