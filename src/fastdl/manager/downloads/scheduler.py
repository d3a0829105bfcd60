# SPDX-License-Identifier: Apache-2.0
"""Who downloads what from where, next: decisions as pure functions.

The dispatcher (``dispatch.py``) feeds them from the ledger and executes the results.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fastdl.manager.ledger.values import BULK, DELAY_MAX_S, Grant, Slot, Waiting
from fastdl.wire.messages import Failure

ATTEMPTS_MAX: Final = 8
"""Attempts of one download over all hosts before it counts as failed."""
BACKOFF_FIRST_S: Final = 5.0
BACKOFF_MAX_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class HostView:
    """A host in state Up. *pools*: those it can use now; *most*: its own download limit;
    *downloads* false: an operator disabled it, it only removes copies."""

    id: str
    pools: frozenset[str]
    most: int = 4
    downloads: bool = True


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that pace downloads. *caps*: slots lowered for a while (see ``adapt``)."""

    origin: int = 16
    host: int = 4
    pool: int = 4
    caps: Mapping[Slot, int] = field(default_factory=dict)

    def of(self, slot: Slot, *, rank: int, host_most: int | None = None) -> int:
        """Return how many jobs may hold *slot* when one of *rank* asks for it.

        Bulk jobs leave a share of every limit free, so that a waiting VM does not have to wait for
        a bulk download to end.
        """
        kind, _ = slot
        most = {"origin": self.origin, "host": self.host, "pool": self.pool}[kind]
        if host_most is not None:
            most = min(most, host_most)
        most = max(1, min(most, self.caps.get(slot, most)))
        return most if rank < BULK or most == 1 else most - max(1, most // 8)


def decide(
    queue: Iterable[Waiting],
    hosts: Mapping[str, HostView],
    in_use: Mapping[Slot, int],
    limits: Limits,
) -> list[Grant]:
    """Return the grants that *queue* (in order of rank and age) allows now.

    The least loaded host that can reach the pool gets the job; hosts of ``tried`` only when
    no other is left. A job that cannot start does not hold up the ones behind it.
    """
    use: dict[Slot, int] = defaultdict(int, in_use)
    by_pool: dict[str, list[HostView]] = defaultdict(list)
    for host in hosts.values():
        for pool in host.pools:
            by_pool[pool].append(host)
    grants = []
    for job in queue:
        chosen = _choose_host(job, by_pool.get(job.pool, ()), use, limits)
        if chosen is None:
            continue
        slots = _slots(job, chosen, limits)
        if any(use[slot] >= most for slot, most in slots):
            continue
        for slot, _ in slots:
            use[slot] += 1
        grants.append(
            Grant(
                job=job.id,
                fence=job.fence,
                host=chosen.id,
                slots=slots,
                template=job.template,
                copy=(job.pool, job.volume) if job.volume else None,
            )
        )
    return grants


def _choose_host(
    job: Waiting, hosts: Iterable[HostView], use: Mapping[Slot, int], limits: Limits
) -> HostView | None:
    def has_room(host: HostView) -> bool:
        slot = ("host", host.id)
        if not job.paced:
            return True
        most = limits.of(slot, rank=job.rank, host_most=host.most)
        return host.downloads and use.get(slot, 0) < most

    hosts = list(hosts)
    untried = [host for host in hosts if host.id not in job.tried]
    free = [host for host in (untried or hosts) if has_room(host)]
    # The checksum spreads equal hosts: without it the first host of a cluster does all the work.
    return min(
        free,
        key=lambda h: (
            use.get(("host", h.id), 0) / max(1, h.most),
            zlib.crc32((job.id + h.id).encode()),
        ),
        default=None,
    )


def _slots(job: Waiting, host: HostView, limits: Limits) -> tuple[tuple[Slot, int], ...]:
    if not job.paced:
        return ()
    wanted: list[Slot] = [("host", host.id), ("pool", job.pool)]
    wanted += [("origin", origin) for origin in dict.fromkeys(job.origins)]
    # A fixed order: two transactions that take the same slots cannot deadlock.
    return tuple(
        (slot, limits.of(slot, rank=job.rank, host_most=host.most if slot[0] == "host" else None))
        for slot in sorted(wanted)
    )


@dataclass(frozen=True, slots=True)
class Next:
    """What becomes of a job after a failed attempt: wait *delay* seconds, or give up."""

    again: bool
    delay: float = 0.0
    tried: tuple[str, ...] = ()


def after_failure(
    failure: Failure,
    *,
    host: str,
    attempt: int,
    tried: tuple[str, ...],
    able_hosts: Iterable[str],
) -> Next:
    """Return whether and when the job runs again after its *attempt*-th try on *host*.

    Where another host may succeed, the next one that has not tried goes at once; when all
    have, the round is over and only an error that may pass starts another one.
    """
    tried = (*(t for t in tried if t != host), host)
    if attempt >= ATTEMPTS_MAX or not (failure.retryable or failure.elsewhere):
        return Next(again=False)
    asked = max(0.0, min(failure.retry_after_s or 0.0, DELAY_MAX_S))
    if failure.elsewhere and not set(able_hosts) <= set(tried):
        return Next(again=True, delay=asked, tried=tried)
    if not failure.retryable and failure.retry_after_s is None:
        return Next(again=False)
    backoff: float = min(BACKOFF_FIRST_S * 2 ** (attempt - 1), BACKOFF_MAX_S)
    return Next(again=True, delay=max(backoff, asked))


def adapt(cap: int | None, *, most: int, overloaded: bool) -> int | None:
    """Return an origin's new cap: halved when it says 429 or 503, plus one for a success.

    None = no cap: the setting alone counts.
    """
    if overloaded:
        return max(1, min(cap or most, most) // 2)
    if cap is None or cap + 1 >= most:
        return None
    return cap + 1


def is_overload(failure: Failure) -> bool:
    """Whether the origin asked for fewer requests (429 or 503, with or without Retry-After)."""
    return failure.retry_after_s is not None or failure.http_status in (429, 503)
