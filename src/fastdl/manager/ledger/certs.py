# SPDX-License-Identifier: Apache-2.0
"""Certificates of a zone: which of them each host should hold, and which it does hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AliasConflictError
from fastdl.manager.ledger.hosts import UP
from fastdl.manager.ledger.tables import cert, cert_host, host
from fastdl.manager.ledger.text import new_id
from fastdl.trust.alias import fold

UPLOADED = "UPLOADED"
FAILED = "FAILED"
SKIPPED = "SKIPPED"
REVOKED = "REVOKED"

_SETTLED: Final = (cert_host.c.done_rev >= cert_host.c.want_rev) & (cert_host.c.failures == 0)
"""The condition that a host has done what was wanted of it last."""
_DUE_HOSTS: Final = (
    select(cert_host.c.host)
    .distinct()
    .join(host, host.c.id == cert_host.c.host)
    .where(
        cert_host.c.failures > 0,
        # Further ahead than any delay: postponed before the clock was set back.
        (cert_host.c.retry_at <= bindparam("now")) | (cert_host.c.retry_at > bindparam("far")),
        host.c.state == UP,
    )
)
"""Kept, as other statements of every round: building one costs more than running it."""


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
    """Store a certificate; AliasConflictError if the zone has a live one of that alias."""
    id_ = new_id()
    try:
        await tx.execute(
            insert(cert).values(
                id=id_,
                zone=zone,
                alias=alias,
                live_alias=fold(alias),
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
    query = select(cert).where(cert.c.zone == zone, cert.c.live_alias == fold(alias))
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
    """Delete: wanted nowhere. The row stays until every host has removed it."""
    await tx.execute(update(cert).where(cert.c.id == id_).values(live_alias=None, removed=now))
    await tx.execute(
        update(cert_host)
        .where(cert_host.c.cert == id_)
        .values(want="absent", want_rev=cert_host.c.want_rev + 1, failures=0, retry_at=0.0)
    )


async def revoke_in_zone(tx: AsyncConnection, id_: str) -> None:
    """Want it nowhere in the zone, on future hosts either; the record stays."""
    await tx.execute(update(cert).where(cert.c.id == id_).values(revoked=True))


async def want(
    tx: AsyncConnection, id_: str, hosts: Iterable[str], *, present: bool
) -> dict[str, int]:
    """Set what *hosts* should hold; return each host's revision, to wait for."""
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
                {
                    "cert": id_,
                    "host": host_id,
                    "want": state,
                    "want_rev": 1,
                    "status": SKIPPED,
                    "detail": "not pushed yet",
                }
            )
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


async def desired(tx: AsyncConnection, hosts: Sequence[Row[Any]]) -> dict[str, dict[str, HostWant]]:
    """Return, for each of *hosts* (rows), what it should hold: certificate id → want.

    A deleted certificate stays in the result until the host has removed it. Others that were
    deleted are not read: a zone may have had thousands.
    """
    live = cert.c.live_alias.is_not(None)
    links = await tx.execute(
        select(cert_host)
        .join(cert, cert.c.id == cert_host.c.cert)
        .where(cert_host.c.host.in_([h.id for h in hosts]), live | ~_SETTLED)
    )
    by_host: dict[str, dict[str, Row[Any]]] = {h.id: {} for h in hosts}
    for link in links:
        by_host[link.host][link.cert] = link
    linked = {id_ for mine in by_host.values() for id_ in mine}
    rows = await tx.execute(
        select(cert)
        .where(cert.c.zone.in_({h.zone for h in hosts}), live | cert.c.id.in_(linked))
        # A revocation must wait for a plan that reads the certificate as wanted, or precede it.
        .with_for_update(read=True)
    )
    certs = list(rows)
    back = await _uploaded_again(tx, [c.id for c in certs if c.revoked])
    wants: dict[str, dict[str, HostWant]] = {}
    for h in hosts:
        mine = by_host[h.id]
        wants[h.id] = {
            c.id: HostWant(cert=c, link=mine.get(c.id), on_others=c.id in back)
            for c in certs
            if c.zone == h.zone and (c.live_alias is not None or c.id in mine)
        }
    return wants


async def _uploaded_again(tx: AsyncConnection, revoked: Sequence[str]) -> set[str]:
    """The *revoked* certificates that some host of their zone should hold again."""
    if not revoked:
        return set()
    found = await tx.execute(
        select(cert_host.c.cert)
        .join(host, host.c.id == cert_host.c.host)
        .where(cert_host.c.cert.in_(revoked), cert_host.c.want == "present")
        .distinct()
    )
    return {row.cert for row in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWant:
    """A certificate's row and, if it exists, the row of (certificate, host)."""

    cert: Row[Any]
    link: Row[Any] | None
    on_others: bool = False

    @property
    def rev(self) -> int:
        """The wanted revision."""
        return self.link.want_rev if self.link is not None else 1

    @property
    def settled(self) -> bool:
        """Whether the outcome of this revision is known and good."""
        link = self.link
        return link is not None and link.done_rev >= link.want_rev and link.failures == 0


Outcomes = Mapping[str, tuple[int, str, str]]
"""Certificate id → (revision pushed, status, detail)."""


async def settle(
    tx: AsyncConnection,
    outcomes: Mapping[str, Outcomes],
    *,
    now: float,
    retry_delay: Callable[[int], float],
) -> None:
    """Store the outcomes of pushes: host → its outcomes; *retry_delay*: failures in a row →
    seconds until the next try.

    An outcome for an older revision than the wanted one counts for that revision only: a caller
    that waits for the newer one keeps waiting.
    """
    ids = {id_ for of_host in outcomes.values() for id_ in of_host}
    query = select(cert_host).where(
        cert_host.c.host.in_(outcomes.keys()), cert_host.c.cert.in_(ids)
    )
    values = []
    for row in await tx.execute(query.order_by(cert_host.c.cert, cert_host.c.host)):
        outcome = outcomes[row.host].get(row.cert)
        if outcome is None or row.done_rev > outcome[0]:
            continue
        rev, status, detail = outcome
        failures = row.failures + 1 if status == FAILED else 0
        values.append(
            {
                "cert_id": row.cert,
                "host_id": row.host,
                "done_rev": rev,
                "status": status,
                "detail": detail,
                "failures": failures,
                "retry_at": now + retry_delay(failures) if failures else 0.0,
            }
        )
    if values:
        pair = (cert_host.c.cert == bindparam("cert_id"), cert_host.c.host == bindparam("host_id"))
        newer = cert_host.c.done_rev <= bindparam("rev")
        await tx.execute(
            update(cert_host).where(*pair, newer),
            [{**value, "rev": value["done_rev"]} for value in values],
        )


async def link(tx: AsyncConnection, pairs: Iterable[tuple[str, str]]) -> None:
    """Note (host, certificate) pairs of hosts that are about to get certificates without having
    been named for them, so that a revocation in the meantime finds them.
    """
    new = [
        {
            "cert": id_,
            "host": host_id,
            "want": "present",
            "want_rev": 1,
            "status": SKIPPED,
            "detail": "not pushed yet",
        }
        for host_id, id_ in pairs
    ]
    if new:
        await tx.execute(insert(cert_host), new)


async def due_hosts(tx: AsyncConnection, *, now: float, farthest: float) -> list[str]:
    """Return the Up hosts with a failed push whose next try is due at the steady time *now*;
    *farthest*: the longest delay."""
    rows = await tx.execute(_DUE_HOSTS, {"now": now, "far": now + farthest})
    return list(rows.scalars())


async def counts(tx: AsyncConnection) -> dict[str, int]:
    """Return how many (certificate, host) pairs are in each status.

    An unsettled one is PENDING while its host is Up, otherwise SKIPPED, as in the lists: nobody
    waits for a dead host.
    """
    open_ = (cert_host.c.want_rev > cert_host.c.done_rev).label("open")
    up = (host.c.state == UP).label("up")
    rows = await tx.execute(
        select(cert_host.c.status, open_, up, func.count().label("pairs"))
        .join(cert, cert.c.id == cert_host.c.cert)
        .join(host, host.c.id == cert_host.c.host)
        .where(cert.c.live_alias.is_not(None))
        .group_by(cert_host.c.status, open_, up)
    )
    found: Counter[str] = Counter()
    for row in rows:
        unsettled = "PENDING" if row.up else SKIPPED
        found[unsettled if row.open else row.status] += row.pairs
    return dict(found)


async def note_warning(tx: AsyncConnection, id_: str, days: int) -> bool:
    """Remember that the operator was warned of *days* left; False = that was known."""
    new = (cert.c.id == id_) & (cert.c.warned != days + 1)
    return (await tx.execute(update(cert).where(new).values(warned=days + 1))).rowcount == 1


async def prune(tx: AsyncConnection, *, before: float) -> None:
    """Delete what is left of certificates that were deleted before *before* and that no host has
    to remove any more."""
    gone = cert.c.live_alias.is_(None) & (cert.c.removed < before)
    removed = select(cert.c.id).where(gone)
    await tx.execute(delete(cert_host).where(cert_host.c.cert.in_(removed), _SETTLED))
    left = select(cert_host.c.cert).where(cert_host.c.cert == cert.c.id).exists()
    await tx.execute(delete(cert).where(gone, ~left))
