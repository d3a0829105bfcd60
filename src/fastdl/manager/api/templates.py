# SPDX-License-Identifier: Apache-2.0
"""Templates and ISOs: register and delete them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import (
    ApiParamError,
)
from fastdl.manager import sealed
from fastdl.manager.api import catalog, probes, views
from fastdl.manager.api import follows as follows_api
from fastdl.manager.api.follows import Wish
from fastdl.manager.api.spec import (
    JOB,
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
)
from fastdl.manager.api.template_access import owned, zones_of_request
from fastdl.manager.downloads import checksums, registration, results
from fastdl.manager.downloads.checksums import Fixed
from fastdl.manager.downloads.following import INTERVAL, check_version
from fastdl.manager.downloads.removal import remove_copies
from fastdl.manager.ledger import accounts, copies, follows, job_list, records, templates
from fastdl.manager.settings import DIRECT_DEFAULT
from fastdl.model.url import Url
from fastdl.publishers.simplestreams import is_product
from fastdl.wire import codec
from fastdl.wire import messages as m

_FLAGS: Final = (
    "passwordenabled",
    "sshkeyenabled",
    "isextractable",
    "isdynamicallyscalable",
    "requireshvm",
    "bits",
    "templatetag",
)
ARCHITECTURES: Final = ("x86_64", "aarch64", "i686", "s390x")
"""CloudStack's names; the first is the default."""


def check_name(name: str) -> None:
    """ApiParamError if *name* is not allowed for a template or ISO."""
    if not name.strip():
        raise ApiParamError("A template or ISO needs a name")
    if name.lower().startswith(("systemvm-", "xs-tools.iso", "vmware-tools.iso")):
        raise ApiParamError("Cannot use reserved names for templates")


def check_details(details: Mapping[str, str]) -> None:
    """ApiParamError if *details* cannot be stored."""
    if any(len(k) > 255 or len(v) > 4096 for k, v in details.items()):
        raise ApiParamError("A detail's name has at most 255 characters, its value 4096")


async def _check_request(
    call: Call, *, iso: bool, product: Fixed | None
) -> tuple[Url, str, str | None, dict[str, str]]:
    """Return (location, format, checksum, details); ApiParamError where the request cannot stand.

    *product*: what the source's publisher says of it.
    """
    settings = call.context.settings
    hypervisor = call.get("hypervisor") or "KVM"
    direct = call.get("directdownload")
    if direct is None and not settings.flag(DIRECT_DEFAULT):
        raise ApiParamError(
            "There is no secondary storage here: register with directdownload=true (or set "
            f"{DIRECT_DEFAULT}=true, which makes that the default)"
        )
    if direct is False:
        raise ApiParamError(
            "There is no secondary storage here, so directdownload=false is impossible: leave "
            "directdownload out, or set it to true"
        )
    if hypervisor.lower() != "kvm":
        raise ApiParamError("Parameter directdownload is only allowed for KVM or Custom templates")
    check_name(call.args["name"])
    if call.get("ostypeid") is not None and call.args["ostypeid"] not in catalog.OS_NAMES:
        raise call.no_entity("ostypeid")
    url = await probes.locate(call)
    format_ = registration.check_format(url, "ISO" if iso else call.args["format"])
    checksum = call.get("checksum") if product is None else product.checksum
    if product is None or product.signed_by is None:
        checksums.check_signed(settings, url, checksum)
    if checksums.is_reference(checksum):
        checksums.check_reference(settings, checksum)
    else:
        checksum = registration.check_checksum(checksum)
    details = dict(call.get("details") or {})
    check_details(details)
    return url, format_, checksum, details


async def _check_quota(call: Call, most: int) -> None:
    """ApiConflictError where the account has its templates already."""
    if not call.user.admin and most >= 0:
        # Before a host does any work; counted again when the template is stored.
        async with call.context.ledger.read() as tx:
            await accounts.check_templates(tx, call.user.account, most=most)


async def _find_product(call: Call, most: int) -> Fixed | None:
    """Where the URL is a product of simplestreams: its file becomes the URL of *call*."""
    if not is_product(call.args["url"]):
        return None
    if call.get("checksum") is not None:
        raise ApiParamError("A product of simplestreams brings its checksum along: leave it out")
    await _check_quota(call, most)
    url, found = await probes.product_file(call, await zones_of_request(call), call.args["url"])
    call.args = {**call.args, "url": url.request_text()}
    return found


async def _register(call: Call, *, iso: bool) -> Reply:
    most = call.context.settings.whole("max.account.templates")
    details = dict(call.get("details") or {})
    product, wish = call.args["url"], follows_api.take_wish(call, details)
    call.args = {**call.args, "details": details}
    listed = await _find_product(call, most)
    args, admin = call.args, call.user.admin
    location, format_, checksum, details = await _check_request(call, iso=iso, product=listed)
    vault = call.context.vault
    headers = sealed.seal_headers(vault, registration.headers_of(details))
    zone_ids = await zones_of_request(call)
    await _check_quota(call, most)
    if checksum is not None and checksums.is_reference(checksum):
        listed = await probes.listed_checksum(call, zone_ids, checksum, location, headers)
        checksum = listed.checksum
    elif listed is None and (
        signed := await probes.signed_metalink(call, zone_ids, location, headers)
    ):
        if checksum not in (None, signed.checksum):
            raise ApiParamError("The signed metalink says another checksum than the request")
        listed, checksum = signed, signed.checksum
    probe = await probes.probe_source(call, zone_ids, format_, headers)
    if listed is not None:
        checksums.check_agreement(listed, probe)
    _check_probe(call, probe, checksum)
    flags: dict[str, Any] = {name: args[name] for name in _FLAGS if args.get(name) is not None} | {
        "crosszones": len(zone_ids) > 1,
        "warnings": [*(listed.warnings if listed else ()), *_warnings(probe, admin=admin)],
    }
    if listed is not None:
        flags |= {"checksumsource": listed.source, "signedby": listed.signed_by}
    os_type = call.get("ostypeid")
    flags["ostypename"] = catalog.OS_NAMES.get(os_type or "", catalog.DEFAULT_OS)
    values = {
        "owner": call.user.id,
        "account": call.user.account,
        "name": args["name"],
        "display_text": args.get("displaytext") or args["name"],
        "url": args["url"],
        "iso": iso,
        "format": format_,
        "hypervisor": "KVM",
        "os_type": os_type,
        "arch": args["arch"],
        "bootable": args.get("bootable", True),
        "checksum": checksum,
        "public": bool(args.get("ispublic")),
        "featured": bool(args.get("isfeatured")) and admin,
        "details": sealed.seal_details(vault, details),
        "flags": flags,
        "sources": [args["url"]],
        "origins": registration.origins_of(location.request_text(), probe.mirrors),
        "size": probe.size,
        "virtual_size": probe.virtual_size,
        "validators": codec.to_plain(probe.validators),
        "digests": dict(probe.digests),
    }

    async def work(tx: AsyncConnection) -> list[Row[Any]]:
        if not admin and most >= 0:
            await accounts.claim_template(tx, call.user.account, most=most)
        id_ = await templates.create(tx, values, zones=zone_ids, now=call.now)
        if wish is not None:
            await _follow(call, tx, id_, product, wish, listed)
        kind = "ISO" if iso else "TEMPLATE"
        await call.note(tx, f"{kind}.CREATE", f"{args['name']} registered for direct download", id_)
        if probe.unsafe:
            text = f"{args['name']} was registered, but {_warnings(probe, admin=admin)[0]}"
            await call.note(tx, f"{kind}.DIRECT.DOWNLOAD.UNSAFE", text, id_, level="WARN")
        return (await templates.find(tx, iso=iso, where={"id": id_}))[1]

    rows = await call.write(work)
    name = "iso" if iso else "template"
    return Listing(name, [views.template(row, admin=admin, own=True) for row in rows])


async def _follow(
    call: Call, tx: AsyncConnection, id_: str, product: str, wish: Wish, found: Fixed | None
) -> None:
    assert found is not None
    hours = call.context.settings.number(INTERVAL)
    await follows.create(
        tx,
        product=product,
        name=call.args["name"],
        keep=wish.keep,
        template=id_,
        version=check_version(found.version),
        now=call.now,
        due=call.context.clock.steady() + hours * 3600,
    )


def _warnings(probe: m.ProbeDone, *, admin: bool) -> list[str]:
    """Warnings at registration: what downloads will refuse.

    CloudStack registers what a host can reach; the image is checked when it is downloaded. So this
    is a warning, not a refusal: the origin may serve another file by then.
    """
    unsafe = [f"every download of it will be refused: {reason}" for reason in probe.unsafe]
    # Errors of a mirror on an internal network are for administrators, as for any failure.
    others = probe.warnings if admin or probe.public_source else ()
    return [*unsafe, *others][:16]


def _check_probe(call: Call, probe: m.ProbeDone, checksum: str | None) -> None:
    strong = checksum or any(name.startswith("sha") for name in probe.digests)
    if call.context.settings.flag("direct.download.require.checksum") and not strong:
        raise ApiParamError(
            "direct.download.require.checksum is true: give a checksum, or a metalink with one"
        )


async def register_template(call: Call) -> Reply:
    """Register a template for direct download; it is ready for deployment at once."""
    return await _register(call, iso=False)


async def register_iso(call: Call) -> Reply:
    """Register an ISO for direct download."""
    return await _register(call, iso=True)


async def _delete(call: Call, *, iso: bool) -> Reply:
    """Remove a template from a zone (or all): stop its downloads, remove its copies.

    Anything still downloaded is removed on arrival (``results``), so that no copy outlives its
    template unnoticed.
    """
    row, zone_id = await owned(call, "id", iso=iso), call.get("zoneid")

    forced = bool(call.get("forced")) and call.user.admin

    async def work(tx: AsyncConnection) -> tuple[str, list[Row[Any]]]:
        offered = await templates.zones_of(tx, row.id)
        if not offered:
            raise call.no_entity("id")
        if zone_id is not None and zone_id not in offered:
            raise call.no_entity("zoneid")
        live = await job_list.live_of_template(tx, row.id)
        there = [job for job in live if zone_id in {None, job.zone}]
        cancelled = await results.cancel(tx, there, now=call.now)
        found = await copies.of_template(tx, row.id, zone_id=zone_id)
        doomed = [c for c in found if c.state != copies.READY or not call.get("keepcopies")]
        await templates.remove(tx, row.id, zone_id=zone_id, now=call.now)
        kind = "ISO" if iso else "TEMPLATE"
        await call.note(tx, f"{kind}.DELETE", f"{row.name} deleted", row.id)
        removals = await remove_copies(tx, doomed, now=call.now, forced=forced)
        # Offline hosts remove theirs when they return; the command does not wait for that.
        reaching = call.context.fleet.reaching
        parts = [job for pool, job in removals if any(reaching(pool))]
        api_job = await records.add_api_job(
            tx,
            owner=call.user.id,
            command=call.command.name,
            now=call.now,
            instance_type="Iso" if iso else "Template",
            instance=row.id,
            parts=parts,
        )
        if not parts:
            await records.complete_api_job(
                tx, api_job, status=records.SUCCEEDED, result={"success": True}, now=call.now
            )
        return api_job, cancelled

    api_job, cancelled = await call.write(work)
    call.context.dispatcher.cancelled(cancelled)
    return Bare({"jobid": api_job})


async def delete_template(call: Call) -> Reply:
    """Delete a template and its copies."""
    return await _delete(call, iso=False)


async def delete_iso(call: Call) -> Reply:
    """Delete an ISO and its copies."""
    return await _delete(call, iso=True)


SHOWN: Final = tuple(
    Field(name)
    for name in (
        "id",
        "name",
        "displaytext",
        "ispublic",
        "created",
        "isready",
        "passwordenabled",
        "format",
        "isfeatured",
        "crossZones",
        "ostypeid",
        "ostypename",
        "account",
        "zoneid",
        "zonename",
        "status",
        "size",
        "physicalsize",
        "templatetype",
        "hypervisor",
        "domain",
        "domainid",
        "isextractable",
        "checksum",
        "templatetag",
        "details",
        "downloaddetails",
        "bits",
        "arch",
        "sshkeyenabled",
        "isdynamicallyscalable",
        "directdownload",
        "deployasis",
        "requireshvm",
        "url",
        "drift",
        "warnings",
        "origins",
        "validators",
        "digests",
    )
)

ARCH: Final = Param("arch", text="of its processors", choices=ARCHITECTURES)

_REGISTER: Final = (
    Param("name", text="its name", required=True),
    Param(
        "url",
        text="the source: http, https, nfs, a metalink, or a product: "
        "simplestreams:URL#OS:RELEASE:ARCH:FILE, or s3://BUCKET/KEY",
        required=True,
        length=2048,
    ),
    Param("displaytext", text="what users see (default: the name)", length=4096),
    Param("ostypeid", Kind.UUID, "the guest operating system (listOsTypes)"),
    Param("zoneid", text="the zone; -1 = all"),
    Param("directdownload", Kind.BOOLEAN, "true, which is the default: there is nothing else"),
    Param(
        "checksum",
        text="{ALGORITHM}hexadecimal; without prefix MD5; or the URL of a list that "
        "names the file (SHA256SUMS, CHECKSUM, URL#NAME): it is fetched and fixed now",
        length=2048,
    ),
    Param("ispublic", Kind.BOOLEAN, "whether other users see it", default=False),
    Param("isfeatured", Kind.BOOLEAN, "whether it is offered first (administrators)"),
    Param("isextractable", Kind.BOOLEAN, "kept as a flag"),
    Param("passwordenabled", Kind.BOOLEAN, "kept as a flag"),
    Param("isdynamicallyscalable", Kind.BOOLEAN, "kept as a flag"),
    Param(
        "details",
        Kind.MAP,
        "details[0].HTTP_HEADER:NAME=VALUE become request headers; "
        "fastdl.follow=true and fastdl.keep=N: follow the product that url names",
    ),
    dataclasses.replace(ARCH, default=ARCHITECTURES[0]),
)
_DELETE: Final = (
    Param("id", Kind.UUID, "what to delete", required=True),
    Param("zoneid", Kind.UUID, "from this zone only"),
    Param("forced", Kind.BOOLEAN, "of an administrator: copies in use too"),
    Param("keepcopies", Kind.BOOLEAN, "leave the copies on primary storage"),
)

COMMANDS: Final = (
    Command(
        name="registerTemplate",
        text="Register a template that KVM hosts download directly to primary storage",
        handler=register_template,
        params=(
            *_REGISTER,
            Param("format", text="QCOW2, RAW, VMDK, VHD…", required=True),
            Param("hypervisor", text="must be KVM", required=True),
            Param("zoneids", Kind.LIST, "several zones; -1 = all"),
            Param("bits", Kind.INTEGER, "32 or 64", default=64, least=32, most=64),
            Param("requireshvm", Kind.BOOLEAN, "kept as a flag", default=True),
            Param("sshkeyenabled", Kind.BOOLEAN, "kept as a flag"),
            Param("templatetag", text="kept as a flag"),
            Param("templatetype", text="only one exists", choices=("USER",)),
        ),
        response=SHOWN,
        changes=True,
    ),
    Command(
        name="registerIso",
        text="Register an ISO that KVM hosts download directly to primary storage",
        handler=register_iso,
        params=(*_REGISTER, Param("bootable", Kind.BOOLEAN, "kept as a flag", default=True)),
        response=SHOWN,
        changes=True,
    ),
    Command(
        name="deleteTemplate",
        text="Delete a template, its downloads and its copies on primary storage",
        handler=delete_template,
        params=_DELETE,
        response=JOB,
        changes=True,
        is_async=True,
    ),
    Command(
        name="deleteIso",
        text="Delete an ISO, its downloads and its copies on primary storage",
        handler=delete_iso,
        params=_DELETE,
        response=JOB,
        changes=True,
        is_async=True,
    ),
)
