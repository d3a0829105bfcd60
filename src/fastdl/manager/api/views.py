# SPDX-License-Identifier: Apache-2.0
"""How rows of the ledger look as CloudStack's response objects."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row

from fastdl.manager.api.spec import ROOT_DOMAIN
from fastdl.manager.certificates import x509text
from fastdl.manager.ledger.hosts import UP
from fastdl.manager.ledger.records import resource_type
from fastdl.manager.ledger.text import loads

_CLUSTERS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "clusters.fastdl.internal")
HIDDEN: Final = "********"


def date(moment: float | None) -> str | None:
    """Return a time as CloudStack writes it: ``2026-11-22T12:00:00+0000``."""
    if moment is None:
        return None
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S%z")


def cluster_id(zone: str, cluster: str) -> str:
    """Return the id of a cluster: clusters are names, their ids follow from them."""
    return str(uuid.uuid5(_CLUSTERS, f"{zone}/{cluster}"))


def zone(row: Row[Any]) -> dict[str, Any]:
    """A zone."""
    return {
        "id": row.id,
        "name": row.name,
        "networktype": "Basic",
        "securitygroupsenabled": False,
        "allocationstate": "Enabled" if row.enabled else "Disabled",
        "localstorageenabled": True,
        "dhcpprovider": "VirtualRouter",
        "type": "ApiContext",
        "tags": [],
        **loads(row.network),
    }


def host(row: Row[Any], zone_name: str) -> dict[str, Any]:
    """A host."""
    keystore = loads(row.keystore)
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "type": "Routing",
        "ipaddress": row.address,
        "zoneid": row.zone,
        "zonename": zone_name,
        "clusterid": cluster_id(row.zone, row.cluster),
        "clustername": row.cluster,
        "hypervisor": "KVM",
        "version": row.version,
        "arch": row.arch or None,
        "resourcestate": row.resource_state,
        "hosttags": ",".join(loads(row.tags)) or None,
        "managementserverid": row.gateway or None,
        "created": date(row.created),
        "disconnected": date(row.changed) if row.state != UP else None,
        "certificates": len(keystore),
        "certificateexpires": date(row.certified_until),
        "keystoreerror": row.keystore_error,
    }


def pool(row: Row[Any], zone_name: str, *, why_down: str | None) -> dict[str, Any]:
    """A primary storage pool; *why_down*: why no host can use it now, None where one can."""
    return {
        "id": row.id,
        "name": row.name,
        "type": row.type,
        "path": row.path,
        "scope": "CLUSTER" if row.shared else "HOST",
        "state": "Up" if why_down is None else "Down",
        "error": why_down,
        "zoneid": row.zone,
        "zonename": zone_name,
        "clusterid": cluster_id(row.zone, row.cluster),
        "clustername": row.cluster,
        "hypervisor": "KVM",
        "open": row.open,
        "disksizetotal": row.capacity,
        "disksizeused": max(0, row.capacity - row.available),
        "created": date(row.created),
    }


def template(
    row: Row[Any], *, admin: bool, own: bool, copies: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A template or an ISO in one zone. The URL and details are for its owner and admins."""
    flags: Mapping[str, Any] = loads(row.flags)
    see_all = admin or own
    item = {
        "id": row.id,
        "name": row.name,
        "displaytext": row.display_text,
        "ispublic": row.public,
        "created": date(row.created),
        "isready": True,
        "passwordenabled": bool(flags.get("passwordenabled")),
        "format": row.format,
        "isfeatured": row.featured,
        "crossZones": bool(flags.get("crosszones")),
        "ostypeid": row.os_type,
        "ostypename": flags.get("ostypename", "Other"),
        "account": row.account,
        "zoneid": row.zone_id,
        "zonename": row.zone_name,
        "status": "Bypassed Secondary Storage",
        "size": row.virtual_size if row.virtual_size is not None else row.size,
        "physicalsize": row.size,
        "templatetype": "USER",
        "hypervisor": row.hypervisor,
        "domain": "ROOT",
        "domainid": ROOT_DOMAIN,
        "isextractable": bool(flags.get("isextractable")),
        "checksum": row.checksum.partition("}")[2] if row.checksum else None,
        "templatetag": flags.get("templatetag"),
        "details": _details(loads(row.details)) if see_all else None,
        "downloaddetails": copies,
        "bits": flags.get("bits", 64),
        "arch": row.arch,
        "sshkeyenabled": bool(flags.get("sshkeyenabled")),
        "isdynamicallyscalable": bool(flags.get("isdynamicallyscalable")),
        "directdownload": True,
        "deployasis": False,
        "requireshvm": bool(flags.get("requireshvm", True)),
        "url": row.url if see_all else None,
        "drift": row.drift,
        "checksumsource": flags.get("checksumsource") if see_all else None,
        "signedby": flags.get("signedby"),
        "warnings": (flags.get("warnings") or None) if see_all else None,
        "origins": loads(row.origins) if admin else None,
        "validators": loads(row.validators) if admin else None,
        "digests": loads(row.digests) if admin else None,
    }
    if row.iso:
        item["bootable"] = row.bootable
    return item


def _details(details: Mapping[str, str]) -> dict[str, str]:
    return {
        key: HIDDEN if key.upper().startswith("HTTP_HEADER") else value
        for key, value in details.items()
    }


def certificate(
    row: Row[Any], zone_name: str, hosts: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """A direct download certificate."""
    return {
        "id": row.id,
        "alias": row.alias,
        "zoneid": row.zone,
        "zonename": zone_name,
        **x509text.describe(row.pem),
        "hypervisor": "KVM",
        "fingerprint": row.sha256,
        "expires": date(row.not_after),
        "hostsmap": hosts,
    }


def flat_certificate(item: Mapping[str, Any]) -> dict[str, Any]:
    """A certificate as typed clients (cloudstack-go) read it: the host states are strings."""
    hosts = item["hostsmap"]
    words = hosts and [f"{host['hostname']}: {host['status']}" for host in hosts]
    return {**item, "hostsmap": words}


def host_status(host_id: str, name: str, status: str, details: str | None) -> dict[str, Any]:
    """The state of a certificate on one host."""
    return {"hostid": host_id, "hostname": name, "status": status, "details": details}


def event(row: Row[Any]) -> dict[str, Any]:
    """An event."""
    return {
        "id": row.id,
        "type": row.type,
        "level": row.level,
        "state": row.state,
        "description": row.description,
        "username": row.username or row.account,
        "account": row.account,
        "address": row.address,
        "domainid": ROOT_DOMAIN,
        "domain": "ROOT",
        "created": date(row.created),
        "resourceid": row.resource,
        "resourcetype": resource_type(row.type) if row.resource is not None else None,
    }


def state_of(row: Row[Any]) -> str:
    """A user's state, with CloudStack's names; disabled and locked users have no access."""
    if row.enabled:
        return "enabled"
    return "locked" if row.locked else "disabled"


def user(row: Row[Any], *, keys: tuple[str, str] | None = None) -> dict[str, Any]:
    """A user; *keys* only in the response that creates them."""
    return {
        "id": row.id,
        "username": row.username,
        "firstname": row.firstname,
        "lastname": row.lastname,
        "email": row.email,
        "account": row.account,
        "accounttype": 1 if row.admin else 0,
        "roletype": "Admin" if row.admin else "User",
        "domainid": ROOT_DOMAIN,
        "domain": "ROOT",
        "state": state_of(row),
        "created": date(row.created),
        "apikey": row.api_key,
        "secretkey": keys[1] if keys else None,
    }
