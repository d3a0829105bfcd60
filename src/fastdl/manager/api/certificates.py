# SPDX-License-Identifier: Apache-2.0
"""Direct download certificates: upload, revoke, list, provision, update, delete, dry run."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AliasConflictError, ApiParamError, CertRejectedError, FastdlError
from fastdl.manager.api import views
from fastdl.manager.api.filters import SHOWS, By, Contains
from fastdl.manager.api.lists import page_of
from fastdl.manager.api.spec import (
    Bare,
    Call,
    Command,
    Field,
    Kind,
    Listing,
    Param,
    Reply,
    Single,
    listed,
)
from fastdl.manager.certificates import x509text
from fastdl.manager.certificates.sync import not_up, split_by_state
from fastdl.manager.downloads import transfers
from fastdl.manager.ledger import certs, hosts, zones
from fastdl.manager.ledger.certs import FAILED, REVOKED, SKIPPED, UPLOADED
from fastdl.trust.alias import check_alias, is_reserved
from fastdl.wire import messages as m

PER_ZONE_MAX: Final = 500
KVM_ONLY: Final = "Currently supporting KVM hosts only"


def _check_hypervisor(call: Call) -> None:
    given = call.get("hypervisor")
    if given is not None and given.lower() != "kvm":
        raise ApiParamError(KVM_ONLY)


def _check_alias(alias: str) -> None:
    if is_reserved(alias):
        raise CertRejectedError("Please provide a different alias name for the certificate")
    check_alias(alias)


async def _zone(call: Call, tx: AsyncConnection, name: str = "zoneid") -> Row[Any]:
    zone = await zones.get(tx, call.args[name])
    if zone is None:
        raise call.no_entity(name)
    return zone


async def _host(call: Call, tx: AsyncConnection, zone: str | None = None) -> Row[Any]:
    host = await hosts.get(tx, call.args["hostid"])
    if host is None or (zone is not None and host.zone != zone):
        raise call.no_entity("hostid")
    return host


Targets = tuple[Row[Any], list[Row[Any]], dict[str, int]]
"""A certificate's row, the hosts asked, and the revision each was asked for."""


async def _outcomes(call: Call, asked: Targets) -> list[dict[str, Any]]:
    """Wait for the result; return the outcome of each host."""
    cert, targets, revs = asked
    up, away = split_by_state(targets)
    found = await call.context.sync.settle_hosts(cert.id, {host.id: revs[host.id] for host in up})
    found |= {host.id: not_up(host.state) for host in away}
    return [views.host_status(h.id, h.name, *found[h.id]) for h in targets]


async def _note(call: Call, tx: AsyncConnection, what: str, text: str, cert: str) -> None:
    await call.note(tx, f"DIRECT.DOWNLOAD.CERTIFICATE.{what}", text, cert)


async def upload(call: Call) -> Reply:
    """Store a certificate and push it to every Up host of the zone, or again to one host."""
    _check_hypervisor(call)
    zone_id, alias = call.args["zoneid"], call.args["name"]
    read: x509text.Upload | None = None
    if not call.get("hostid"):
        _check_alias(alias)
        read = x509text.read_upload(call.args["certificate"], now=call.now)

    async def work(tx: AsyncConnection) -> tuple[Row[Any], Targets]:
        zone = await _zone(call, tx)
        if read is None:
            return zone, await _push_again(call, tx, zone_id, alias)
        known = len(await certs.live(tx, zone_id))
        if (old := await certs.by_alias(tx, zone_id, alias)) is not None:
            _refuse_second(old, read)
        if known >= PER_ZONE_MAX:
            raise ApiParamError(f"The zone has {known} certificates already: delete some first")
        id_ = await certs.create(
            tx,
            zone=zone_id,
            alias=alias,
            pem=read.pem,
            sha256=read.sha256,
            not_after=read.not_after,
            now=call.now,
        )
        targets = [h for h in await hosts.of_zone(tx, zone_id) if h.state != hosts.CONNECTING]
        revs = await certs.want(tx, id_, [h.id for h in targets], present=True)
        text = f"certificate {alias} uploaded to zone {zone.name}"
        await _note(call, tx, "UPLOAD", text, id_)
        row = await certs.get(tx, id_)
        assert row is not None
        return zone, (row, targets, revs)

    zone, asked = await call.write(work)
    statuses = await _outcomes(call, asked)
    async with call.context.ledger.read() as tx:
        row = await certs.get(tx, asked[0].id)
    if row is None:
        raise CertRejectedError(f"Certificate {alias} was deleted during the upload")
    item = views.certificate(row, zone.name, statuses)
    return Single(call.command.name.lower(), item, flat=views.flat_certificate(item))


def _refuse_second(old: Row[Any], new: x509text.Upload) -> None:
    """AliasConflictError for an alias that is taken, with CloudStack's text."""
    text = f"Certificate alias {old.alias} has been already created"
    if old.sha256 != new.sha256:
        text += (
            f" with another certificate (SHA-256 {old.sha256}): replace it with "
            "updateTemplateDirectDownloadCertificate, or choose another name"
        )
    raise AliasConflictError(text)


async def _push_again(call: Call, tx: AsyncConnection, zone_id: str, alias: str) -> Targets:
    host, row = await _host(call, tx, zone_id), await certs.by_alias(tx, zone_id, alias)
    if row is None:
        raise CertRejectedError("Unable to upload certificate")
    revs = await certs.want(tx, row.id, [host.id], present=True)
    text = f"certificate {alias} pushed again to {host.name}"
    await _note(call, tx, "UPLOAD", text, row.id)
    return row, [host], revs


async def revoke(call: Call) -> Reply:
    """Revoke a certificate on every host of the zone, or on one; its record stays."""
    _check_hypervisor(call)
    if call.get("id") is None and (call.get("name") is None or call.get("hypervisor") is None):
        raise ApiParamError(
            "Please specify the hypervisor and thecertificate name to revoke or the certificate ID"
        )

    async def work(tx: AsyncConnection) -> Targets:
        zone = await _zone(call, tx)
        row = await _to_revoke(call, tx, zone.id)
        one = await _host(call, tx, zone.id) if call.get("hostid") else None
        wants = {link.host: link.want for link in await certs.of_cert(tx, row.id)}
        if one is not None and one.id not in wants:
            raise CertRejectedError(
                f"Failed revoking certificate: Certificate {row.alias} cannot be revoked from host "
                f"{one.name} as it is not available on the host"
            )
        if one is None:
            await certs.revoke_in_zone(tx, row.id)
        in_question = [one] if one is not None else await hosts.of_zone(tx, zone.id)
        held = [h for h in in_question if wants.get(h.id) == "present"]
        revs = await certs.want(tx, row.id, [h.id for h in held], present=False)
        where = f"host {one.name}" if one is not None else f"zone {zone.name}"
        text = f"certificate {row.alias} revoked from {where}"
        await _note(call, tx, "REVOKE", text, row.id)
        return row, held, revs

    statuses = await _outcomes(call, await call.write(work))
    for status in statuses:
        status["details"] = status["details"] or None
    return Listing("directdownloadcertificatehoststatus", statuses)


async def _to_revoke(call: Call, tx: AsyncConnection, zone_id: str) -> Row[Any]:
    if call.get("id") is not None:
        row = await certs.get(tx, call.args["id"])
        missing = f"Could not find certificate with ID {call.args['id']}"
    else:
        row = await certs.by_alias(tx, zone_id, call.args["name"])
        missing = f"Could not find certificate with alias {call.args['name']} and hypervisor KVM"
    if row is None or row.zone != zone_id:
        raise CertRejectedError(f"Failed revoking certificate: {missing}")
    return row


async def list_(call: Call) -> Reply:
    """List the certificates of a zone, optionally with their state on each host."""
    async with call.context.ledger.read() as tx:
        names = {zone.id: zone.name for zone in await zones.all_zones(tx)}
        rows = await certs.live(tx, call.get("zoneid"))
        host_rows = {h.id: h for h in await hosts.of_zone(tx)} if call.get("listhosts") else {}
        items = []
        for row in rows:
            statuses = None
            if call.get("listhosts"):
                statuses = [
                    _listed_status(host_rows[link.host], link)
                    for link in await certs.of_cert(tx, row.id)
                    if link.host in host_rows
                ]
            items.append(views.certificate(row, names.get(row.zone, ""), statuses))
    also = "templatedirectdownloadcertificate", views.flat_certificate
    return page_of(call, "directdownloadcertificate", items, also=also)


def _listed_status(host: Row[Any], link: Row[Any]) -> dict[str, Any]:
    """The current state: a change not made yet is FAILED or SKIPPED, with the reason."""
    status, detail = link.status, link.detail
    if link.done_rev < link.want_rev:
        if host.state == hosts.UP:
            status, detail = FAILED, "not carried out yet: the host is being asked"
        else:
            status, detail = not_up(host.state)
    elif host.keystore_error is not None and status == UPLOADED:
        status, detail = FAILED, f"the host's keystore cannot be read: {host.keystore_error}"
    elif status == UPLOADED and link.want == "absent":
        status = REVOKED
    return views.host_status(host.id, host.name, status, detail or None)


async def _named(call: Call, tx: AsyncConnection) -> Row[Any]:
    row = await certs.get(tx, call.args["id"])
    if row is None:
        raise call.no_entity("id")
    return row


async def provision(call: Call) -> Reply:
    """Push a stored certificate to one host."""

    async def work(tx: AsyncConnection) -> Targets:
        row = await _named(call, tx)
        host = await _host(call, tx, row.zone)
        revs = await certs.want(tx, row.id, [host.id], present=True)
        text = f"certificate {row.alias} provisioned to {host.name}"
        await _note(call, tx, "PROVISION", text, row.id)
        return row, [host], revs

    (status,) = await _outcomes(call, await call.write(work))
    if status["status"] == UPLOADED:
        status["details"] = "OK"
    elif status["status"] == SKIPPED:
        status["status"] = FAILED
    return Single("directdownloadcertificatehoststatus", status, flat=status)


async def update(call: Call) -> Reply:
    """Replace a certificate under the same alias, on every host that has the old one."""
    read = x509text.read_upload(call.args["certificate"], now=call.now)

    async def work(tx: AsyncConnection) -> Targets:
        row = await _named(call, tx)
        await certs.replace(tx, row.id, pem=read.pem, sha256=read.sha256, not_after=read.not_after)
        revs = {
            link.host: link.want_rev
            for link in await certs.of_cert(tx, row.id)
            if link.want == "present"
        }
        await _note(call, tx, "UPDATE", f"certificate {row.alias} replaced", row.id)
        targets = [h for h in await hosts.of_zone(tx, row.zone) if h.id in revs]
        return await _named(call, tx), targets, revs

    asked = await call.write(work)
    statuses = await _outcomes(call, asked)
    async with call.context.ledger.read() as tx:
        fresh = await certs.get(tx, asked[0].id) or asked[0]
        zone = await zones.get(tx, fresh.zone)
    assert zone is not None
    item = views.certificate(fresh, zone.name, statuses)
    return Single(call.command.name.lower(), item, flat=views.flat_certificate(item))


async def delete(call: Call) -> Reply:
    """Delete a certificate from every host, including those offline now, and then permanently."""

    async def work(tx: AsyncConnection) -> list[str]:
        row = await _named(call, tx)
        await certs.remove(tx, row.id, now=call.now)
        await _note(call, tx, "DELETE", f"certificate {row.alias} deleted", row.id)
        return [link.host for link in await certs.of_cert(tx, row.id)]

    call.context.sync.mark(*await call.write(work))
    return Bare({"success": True})


async def check(call: Call) -> Reply:
    """Check, without a download, whether this host would accept an origin's certificate now."""
    s = call.context
    async with s.ledger.read() as tx:
        row = await _host(call, tx)
    host = s.fleet.hosts.get(row.id)
    if host is None or m.Kind.CHECK not in host.kinds:
        raise CertRejectedError(
            f"Host {row.name} is in state {row.state} and cannot be reached now"
        )
    args = m.CheckArgs(transfer=transfers.for_url(s.settings, call.args["url"]))
    try:
        done = await s.requests.send(host, m.Kind.CHECK, args, timeout_s=30.0)
    except FastdlError as exc:
        done = m.CheckDone(accepted=False, reason=exc.message)
    assert isinstance(done, m.CheckDone)
    return Single(
        "directdownloadorigin",
        {
            "hostid": row.id,
            "hostname": row.name,
            "url": call.args["url"],
            "accepted": done.accepted,
            "details": done.reason or None,
            "acceptedby": done.accepted_by or None,
            "subject": done.subject or None,
            "expires": done.not_after or None,
        },
    )


_STATUS: Final = (
    Field("hostid", text="the ID of the host"),
    Field("hostname", text="the name of the host"),
    Field("status", text="UPLOADED, FAILED, SKIPPED or REVOKED"),
    Field("details", text="the reason, if it is not in the desired state"),
)
_CERTIFICATE: Final = (
    Field("id", text="the ID of the certificate"),
    Field("alias", text="its name in each host's keystore"),
    Field("zoneid"),
    Field("zonename"),
    Field("version"),
    Field("subject"),
    Field("issuer"),
    Field("validity"),
    Field("serialnum"),
    Field("hypervisor"),
    Field("fingerprint", text="SHA-256 of the (first) certificate"),
    Field("expires", "date", "when it expires; of a bundle, when the first of them does"),
    Field("hostsmap", "list", "what each host holds of it"),
)
_HYPERVISOR: Final = "must be KVM"
_PEM: Final = "the certificate as one string: PEM, a bundle, PKCS#7, or bare base64"

COMMANDS: Final = (
    Command(
        name="uploadTemplateDirectDownloadCertificate",
        text="Upload a certificate for HTTPS direct template download to the KVM hosts of a zone",
        handler=upload,
        params=(
            Param("certificate", text=_PEM, required=True, length=65535),
            Param("name", text="the alias in the hosts' keystores", required=True),
            Param("hypervisor", text=_HYPERVISOR, required=True),
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("hostid", Kind.UUID, "push the stored certificate again, to this host only"),
        ),
        response=_CERTIFICATE,
        admin=True,
        changes=True,
        since="4.11.0",
    ),
    Command(
        name="revokeTemplateDirectDownloadCertificate",
        text="Revoke a direct download certificate from the hosts of a zone, or from one",
        handler=revoke,
        params=(
            Param("id", Kind.UUID, "the certificate"),
            Param("name", text="its alias"),
            Param("hypervisor", text=_HYPERVISOR),
            Param("zoneid", Kind.UUID, "the zone", required=True),
            Param("hostid", Kind.UUID, "this host only"),
        ),
        response=_STATUS,
        admin=True,
        changes=True,
        since="4.13",
    ),
    Command(
        name="listTemplateDirectDownloadCertificates",
        text="List the uploaded certificates for direct download templates",
        handler=list_,
        params=(
            Param("id", Kind.UUID, "the certificate", narrows=By()),
            Param("zoneid", Kind.UUID, "the zone", narrows=By()),
            Param(
                "listhosts", Kind.BOOLEAN, "with what each host holds", default=False, narrows=SHOWS
            ),
            *listed(Contains(("alias", "subject"))),
        ),
        response=_CERTIFICATE,
        admin=True,
        since="4.17.0",
    ),
    Command(
        name="provisionTemplateDirectDownloadCertificate",
        text="Provision a stored certificate to one host",
        handler=provision,
        params=(
            Param("id", Kind.UUID, "the certificate", required=True),
            Param("hostid", Kind.UUID, "the host", required=True),
        ),
        response=_STATUS,
        admin=True,
        changes=True,
        since="4.17.0",
    ),
    Command(
        name="updateTemplateDirectDownloadCertificate",
        text="Replace a certificate under its alias, on every host that has it (rotation)",
        handler=update,
        params=(
            Param("id", Kind.UUID, "the certificate", required=True),
            Param("certificate", text=_PEM, required=True, length=65535),
        ),
        response=_CERTIFICATE,
        admin=True,
        changes=True,
    ),
    Command(
        name="deleteTemplateDirectDownloadCertificate",
        text="Delete a certificate, also from every host",
        handler=delete,
        params=(Param("id", Kind.UUID, "the certificate", required=True),),
        response=(Field("success", "boolean"),),
        admin=True,
        changes=True,
    ),
    Command(
        name="checkDirectDownloadOrigin",
        text="Check whether a host accepts an origin's certificate now; nothing is downloaded",
        handler=check,
        params=(
            Param("hostid", Kind.UUID, "the host", required=True),
            Param("url", text="the origin", required=True, length=2048),
        ),
        response=(Field("accepted", "boolean"), Field("details"), Field("acceptedby")),
        admin=True,
    ),
)
