# SPDX-License-Identifier: Apache-2.0
"""Who downloads what from where, next: decisions as pure functions.

The dispatcher (``dispatch.py``) feeds them from the ledger and executes the results.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from fastdl.manager.ledger.values import BULK, DELAY_MAX_S, Grant, Slot, Waiting
from fastdl.wire.messages import Failure

ATTEMPTS_MAX: Final = 8
"""Attempts of one download over all hosts before it counts as failed."""
BACKOFF_FIRST_S: Final = 5.0
BACKOFF_MAX_S: Final = 300.0
CANDIDATES: Final = 16
"""Hosts with room that are compared for a job: where a pool is reached by thousands, the least
loaded of a few does as well as the least loaded of all, and is found as fast as in a small zone."""


class Host(Protocol):
    """A host in state Up. *most*: its own download limit; *enabled* false: it only removes
    copies."""

    @property
    def id(self) -> str: ...
    @property
    def most(self) -> int: ...
    @property
    def enabled(self) -> bool: ...
    @property
    def takes_jobs(self) -> bool: ...


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
    hosts_of: Callable[[str], Sequence[Host]],
    in_use: Mapping[Slot, int],
    limits: Limits,
) -> list[Grant]:
    """Return the grants that *queue* (in order of rank and age) allows now.

    *hosts_of* returns the hosts that reach a pool. A lightly loaded one of them gets the job; one
    of ``tried`` only when no other is left. A job that cannot start does not hold up the ones
    behind it.
    """
    use: dict[Slot, int] = defaultdict(int, in_use)
    without_room: set[tuple[str, int, bool]] = set()
    grants = []
    for job in queue:
        here = (job.pool, job.rank, job.paced)
        shared = _shared_slots(job, limits)
        if here in without_room or any(use[slot] >= most for slot, most in shared):
            continue
        chosen, room = _choose_host(job, hosts_of(job.pool), use, limits)
        if not room:
            without_room.add(here)
        if chosen is None:
            continue
        slots = _slots(job, chosen, shared, limits)
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
    job: Waiting, hosts: Sequence[Host], use: Mapping[Slot, int], limits: Limits
) -> tuple[Host | None, bool]:
    """Return (the host for *job*, whether any of *hosts* has room).

    The first hosts with room are compared, from a place in *hosts* that differs from job to job.
    """
    untried: list[Host] = []
    tried: list[Host] = []
    others = False
    start = zlib.crc32(job.id.encode()) % max(1, len(hosts))
    for n in range(len(hosts)):
        host = hosts[(start + n) % len(hosts)]
        if not host.takes_jobs:
            continue
        others = others or host.id not in job.tried
        if not _has_room(job, host, use, limits):
            continue
        (tried if host.id in job.tried else untried).append(host)
        if len(untried) == CANDIDATES:
            break
    # The checksum spreads equal hosts: without it the first host of a cluster does all the work.
    chosen = min(
        untried if others else tried,
        key=lambda h: (
            use.get(("host", h.id), 0) / max(1, h.most),
            zlib.crc32((job.id + h.id).encode()),
        ),
        default=None,
    )
    return chosen, bool(untried or tried)


def _has_room(job: Waiting, host: Host, use: Mapping[Slot, int], limits: Limits) -> bool:
    if not job.paced:
        return True
    slot = ("host", host.id)
    most = limits.of(slot, rank=job.rank, host_most=host.most)
    return host.enabled and use.get(slot, 0) < most


def _shared_slots(job: Waiting, limits: Limits) -> list[tuple[Slot, int]]:
    """Return the slots that *job* needs on whichever host, with their limits."""
    if not job.paced:
        return []
    slots: list[Slot] = [("origin", origin) for origin in dict.fromkeys(job.origins)]
    return [(slot, limits.of(slot, rank=job.rank)) for slot in (*slots, ("pool", job.pool))]


def _slots(
    job: Waiting, host: Host, shared: Sequence[tuple[Slot, int]], limits: Limits
) -> tuple[tuple[Slot, int], ...]:
    if not job.paced:
        return ()
    slot = ("host", host.id)
    own = (slot, limits.of(slot, rank=job.rank, host_most=host.most))
    # A fixed order: two transactions that take the same slots cannot deadlock.
    return tuple(sorted([own, *shared]))


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
    if failure.elsewhere and any(host not in tried for host in able_hosts):
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
