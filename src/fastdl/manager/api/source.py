# SPDX-License-Identifier: Apache-2.0
"""Probing a source before it is registered, from a host. Nothing is stored."""

from __future__ import annotations

from typing import Any, Final

from fastdl.manager import sealed
from fastdl.manager.api.probes import locate, probe_source
from fastdl.manager.api.spec import Call, Command, Field, Kind, Param, Reply, Single
from fastdl.manager.api.template_access import zones_of_request
from fastdl.manager.api.templates import check_details
from fastdl.manager.downloads import registration
from fastdl.wire import messages as m


async def check(call: Call) -> Reply:
    """Have a host of the zones probe a source, as registerTemplate would."""
    s = call.context
    url = await locate(call)
    format_ = registration.check_format(url, call.args["format"])
    details = dict(call.get("details") or {})
    check_details(details)
    headers = sealed.seal_headers(s.vault, registration.headers_of(details))
    zone_ids = await zones_of_request(call)
    done = await probe_source(call, zone_ids, format_, headers)
    return Single("templatesource", _view(done, admin=call.user.admin))


def _view(done: m.ProbeDone, *, admin: bool) -> dict[str, Any]:
    """What the caller may see: details of a file on an internal network are for administrators
    only."""
    shown = admin or done.public_source
    return {
        "size": done.size,
        "virtualsize": done.virtual_size,
        "format": done.format or None,
        "ranges": done.ranges,
        "metalink": done.metalink,
        "unsafe": list(done.unsafe),
        "mirrors": list(done.mirrors) if shown else None,
        "digests": dict(done.digests) if shown else None,
        "etag": done.validators.etag if shown else None,
        "lastmodified": done.validators.last_modified if shown else None,
        "warnings": list(done.warnings) if shown else None,
    }


COMMANDS: Final = (
    Command(
        name="checkTemplateSource",
        text="Have a host probe a source: size, format, mirrors, digests; nothing is stored",
        handler=check,
        params=(
            Param(
                "url",
                text="the source: http, https, nfs, or a metalink",
                required=True,
                length=2048,
            ),
            Param("format", text="QCOW2, RAW, ISO, VMDK, VHD…", required=True),
            Param("zoneid", text="the zone; -1 = all"),
            Param("zoneids", Kind.LIST, "several zones; -1 = all"),
            Param("details", Kind.MAP, "details[0].HTTP_HEADER:NAME=VALUE become request headers"),
        ),
        response=(
            Field("size", "long", "of the file at the source"),
            Field("virtualsize", "long", "of the disk in it"),
            Field("format", text="the format its first bytes show"),
            Field("ranges", "boolean", "whether it can be fetched in parallel and resumed"),
            Field("metalink", "boolean"),
            Field("mirrors", "list"),
            Field("digests", "map"),
            Field("etag"),
            Field("lastmodified"),
            Field("warnings", "list"),
            Field("unsafe", "list", "why every download will be refused"),
        ),
    ),
)
