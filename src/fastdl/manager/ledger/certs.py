# SPDX-License-Identifier: Apache-2.0
"""Certificates of a zone, and what each host should hold and does hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AliasConflictError
from fastdl.manager.certsync import Desired, retry_delay, wanted_on_host
from fastdl.manager.ledger.tables import cert, cert_host, host
from fastdl.manager.ledger.text import new_id

UPLOADED = "UPLOADED"
FAILED = "FAILED"
SKIPPED = "SKIPPED"
REVOKED = "REVOKED"


async def create(
    tx: AsyncConnection,
    *,
    zone: str,
    alias: str,
    pem: str,
    sha256: str,
    not_after: float,
    now: float,
) -> str:
    """Store a certificate; AliasConflictError where the zone has a live one of that alias."""
    id_ = new_id()
    try:
        async with tx.begin_nested():
            await tx.execute(
                insert(cert).values(
                    id=id_,
                    zone=zone,
                    alias=alias,
                    live_alias=alias.casefold(),
                    hypervisor="KVM",
                    pem=pem,
                    sha256=sha256,
                    not_after=not_after,
                    created=now,
                )
            )
    except IntegrityError:
        raise AliasConflictError(f"Certificate alias {alias} has been already created") from None
    return id_


async def get(tx: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return the live certificate with this id."""
    query = select(cert).where(cert.c.id == id_, cert.c.live_alias.is_not(None))
    return (await tx.execute(query)).first()


async def by_alias(tx: AsyncConnection, zone: str, alias: str) -> Row[Any] | None:
    """Return the live certificate of this alias."""
    query = select(cert).where(cert.c.zone == zone, cert.c.live_alias == alias.casefold())
    return (await tx.execute(query)).first()


async def live(tx: AsyncConnection, zone: str | None = None) -> list[Row[Any]]:
    """Return the live certificates of *zone* (or all), oldest first."""
    query = select(cert).where(cert.c.live_alias.is_not(None))
    if zone is not None:
        query = query.where(cert.c.zone == zone)
    return list(await tx.execute(query.order_by(cert.c.created, cert.c.id)))


async def replace(
    tx: AsyncConnection, id_: str, *, pem: str, sha256: str, not_after: float
) -> None:
    """Rotate: another certificate under the same alias, wanted where the old one was."""
    await tx.execute(
        update(cert)
        .where(cert.c.id == id_)
        .values(pem=pem, sha256=sha256, not_after=not_after, warned=0)
    )
    await tx.execute(
        update(cert_host)
        .where(cert_host.c.cert == id_, cert_host.c.want == "present")
        .values(want_rev=cert_host.c.want_rev + 1, failures=0, retry_at=0.0)
    )


async def remove(tx: AsyncConnection, id_: str, *, now: float) -> None:
    """Delete: wanted nowhere. The row stays until every host has let go of it."""
    await tx.execute(update(cert).where(cert.c.id == id_).values(live_alias=None, removed=now))
    await tx.execute(
        update(cert_host)
        .where(cert_host.c.cert == id_)
        .values(want="absent", want_rev=cert_host.c.want_rev + 1, failures=0, retry_at=0.0)
    )


async def revoke_in_zone(tx: AsyncConnection, id_: str) -> None:
    """Want it nowhere in the zone, hosts still to come included; the record stays."""
    await tx.execute(update(cert).where(cert.c.id == id_).values(revoked=True))


async def want(
    tx: AsyncConnection, id_: str, hosts: Iterable[str], *, present: bool
) -> dict[str, int]:
    """Say what *hosts* should hold; return each host's revision, to wait for."""
    state = "present" if present else "absent"
    known = {row.host: row for row in await of_cert(tx, id_)}
    revs: dict[str, int] = {}
    new = []
    for host_id in hosts:
        if row := known.get(host_id):
            revs[host_id] = row.want_rev + 1
        else:
            revs[host_id] = 1
            new.append(
                {"cert": id_, "host": host_id, "want": state, "want_rev": 1, "status": SKIPPED,
                 "detail": "not pushed yet"}
            )  # fmt: skip
    old = [host_id for host_id in revs if host_id in known]
    for start in range(0, len(old), 500):
        await tx.execute(
            update(cert_host)
            .where(cert_host.c.cert == id_, cert_host.c.host.in_(old[start : start + 500]))
            .values(want=state, want_rev=cert_host.c.want_rev + 1, failures=0, retry_at=0.0)
        )
    if new:
        await tx.execute(insert(cert_host), new)
    return revs


async def of_cert(tx: AsyncConnection, id_: str) -> list[Row[Any]]:
    """Return the per-host rows of a certificate."""
    return list(await tx.execute(select(cert_host).where(cert_host.c.cert == id_)))


async def desired(tx: AsyncConnection, host_row: Row[Any]) -> tuple[list[Desired], dict[str, Any]]:
    """Return (what the host should hold, the certificate rows by id).

    Deleted certificates stay in the list until the host no longer holds them.
    """
    rows = await tx.execute(
        select(
            cert.c.id, cert.c.alias, cert.c.live_alias, cert.c.sha256, cert.c.pem, cert.c.revoked,
            cert_host.c.want, cert_host.c.want_rev, cert_host.c.done_rev, cert_host.c.status,
            cert_host.c.failures, cert_host.c.retry_at,
        )
        .select_from(
            cert.outerjoin(
                cert_host,
                (cert_host.c.cert == cert.c.id) & (cert_host.c.host == host_row.id),
            )
        )
        .where(
            cert.c.zone == host_row.zone,
            cert.c.live_alias.is_not(None)
            | (cert_host.c.done_rev < cert_host.c.want_rev),
        )
    )  # fmt: skip
    by_id = {row.id: row for row in rows}
    wants = [
        Desired(
            cert=row.id,
            alias=row.alias,
            sha256=row.sha256,
            present=wanted_on_host(
                revoked_in_zone=row.revoked, deleted=row.live_alias is None, override=row.want
            ),
            retry_at=row.retry_at or 0.0,
        )
        for row in by_id.values()
    ]
    return wants, by_id


async def settle(
    tx: AsyncConnection,
    host_id: str,
    outcomes: Mapping[str, tuple[int, str, str]],
    *,
    present: Mapping[str, bool],
    now: float,
) -> None:
    """Store what became of pushes: certificate id → (revision pushed, status, detail).

    An outcome for an older revision than the wanted one is noted as that revision's only:
    whoever waits for the newer one goes on waiting.
    """
    rows = await tx.execute(
        select(cert_host).where(cert_host.c.host == host_id, cert_host.c.cert.in_(list(outcomes)))
    )
    known = {row.cert: row for row in rows}
    for id_, (rev, status, detail) in sorted(outcomes.items()):
        row = known.get(id_)
        failures = (row.failures if row else 0) + 1 if status == FAILED else 0
        retry_at = now + retry_delay(failures) if failures else 0.0
        if row is None:
            await tx.execute(
                insert(cert_host).values(
                    cert=id_,
                    host=host_id,
                    want="present" if present[id_] else "absent",
                    want_rev=max(rev, 1),
                    done_rev=rev,
                    status=status,
                    detail=detail,
                    failures=failures,
                    retry_at=retry_at,
                )
            )
        elif row.done_rev <= rev:
            await tx.execute(
                update(cert_host)
                .where(
                    cert_host.c.cert == id_,
                    cert_host.c.host == host_id,
                    cert_host.c.done_rev <= rev,
                )
                .values(
                    done_rev=rev,
                    status=status,
                    detail=detail,
                    failures=failures,
                    retry_at=retry_at,
                )
            )


async def due_hosts(tx: AsyncConnection, *, now: float) -> list[str]:
    """Return the Up hosts with a failed push whose next try is due."""
    rows = await tx.execute(
        select(cert_host.c.host)
        .distinct()
        .join(host, host.c.id == cert_host.c.host)
        .where(cert_host.c.failures > 0, cert_host.c.retry_at <= now, host.c.state == "Up")
    )
    return list(rows.scalars())


async def counts(tx: AsyncConnection) -> dict[str, int]:
    """Return how many (certificate, host) pairs are in each status, unsettled ones apart."""
    rows = await tx.execute(
        select(cert_host.c.status, cert_host.c.want_rev > cert_host.c.done_rev)
        .join(cert, cert.c.id == cert_host.c.cert)
        .where(cert.c.live_alias.is_not(None))
    )
    found: dict[str, int] = {}
    for status, open_ in rows:
        name = "PENDING" if open_ else status
        found[name] = found.get(name, 0) + 1
    return found


async def note_warning(tx: AsyncConnection, id_: str, days: int) -> None:
    """Remember that the operator was warned of *days* left."""
    await tx.execute(update(cert).where(cert.c.id == id_).values(warned=days + 1))
