# SPDX-License-Identifier: Apache-2.0
"""How far running downloads are: the latest report of each host, kept in memory only. Managers
relay their hosts' reports to each other, at most one a second for each download."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from fastdl.wire import codec
from fastdl.wire.messages import Progress


class ProgressBoard:
    """Progress by job. A host can report only downloads that its document gave it.

    Within an attempt it never goes back, although the work may: a resume reads parts again, and an
    image may be unpacked first and converted afterwards.
    """

    def __init__(self) -> None:
        self._holder: dict[str, str] = {}
        self._given: dict[str, frozenset[str]] = {}
        self._latest: dict[str, Progress] = {}
        self._percent: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}
        self._relayed: set[str] = set()
        self._unsent: dict[str, str] = {}

    def given(self, host: str, jobs: Collection[str]) -> None:
        """Note which downloads a document gives *host*: it has no others.

        A document that was read before a job ended may be noted after ``drop``: the next one, which
        the end of the job makes due, forgets the job again.
        """
        for job in self._given.pop(host, frozenset()).difference(jobs):
            if self.holds(job, host) and job not in self._relayed:
                self.drop(job)
        for job in jobs:
            self._holder[job] = host
            self._relayed.discard(job)
        if jobs:
            self._given[host] = frozenset(jobs)

    def forget(self, host: str) -> None:
        """Forget the downloads that *host* was given."""
        self.given(host, ())

    def holds(self, job: str, host: str) -> bool:
        """Whether *host* was sent the download *job*."""
        return self._holder.get(job) == host

    def note(self, host: str, progress: Progress) -> bool:
        """Store a report; False = it is not this host's job."""
        if not self.holds(progress.job, host):
            return False
        job, before = progress.job, self._latest.get(progress.job)
        same = before is not None and before.fence == progress.fence
        if same and before is not None and before.total == progress.total:
            progress = replace(progress, done=max(before.done, progress.done))
        least = self._percent.get(job, 0) if same else 0
        self._latest[job] = progress
        self._percent[job] = max(least, percent(progress))
        if job not in self._relayed:
            self._unsaved[job] = self._percent[job]
            self._unsent[job] = host
        return True

    def relay(self, host: str, progress: Progress) -> bool:
        """Store a report that another manager's *host* sent there; False = it is not its job."""
        if progress.job in self._holder and progress.job not in self._relayed:
            if self._holder[progress.job] == host:
                return False  # it came here since
            self.drop(progress.job)
        self._holder[progress.job] = host
        self._relayed.add(progress.job)
        return self.note(host, progress)

    def percent_of(self, job: str) -> int | None:
        """Return how far *job* is, None if its host has not reported yet."""
        return self._percent.get(job)

    def of(self, job: str) -> Progress | None:
        """Return the latest report on *job*."""
        return self._latest.get(job)

    def drop(self, job: str) -> None:
        """Forget a job that ended or left its host."""
        self._holder.pop(job, None)
        self._latest.pop(job, None)
        self._percent.pop(job, None)
        self._unsaved.pop(job, None)
        self._unsent.pop(job, None)
        self._relayed.discard(job)

    def drop_relayed(self, job: str) -> None:
        """Forget a job of another manager's host that ended or left it."""
        if job in self._relayed:
            self.drop(job)

    def drop_all_relayed(self) -> None:
        """Forget the jobs of other managers' hosts, because some may have ended unheard. Those that
        run are reported again within seconds."""
        for job in list(self._relayed):
            self.drop(job)

    def take_unsaved(self) -> dict[str, int]:
        """Return the percentages to store, once."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def take_unsent(self) -> list[tuple[str, Progress]]:
        """Return (host, its latest report) of what the other managers have not seen, once."""
        unsent, self._unsent = self._unsent, {}
        return [(host, self._latest[job]) for job, host in unsent.items() if job in self._latest]

    def all(self) -> dict[str, Progress]:
        """Return the latest report on every running job."""
        return dict(self._latest)


def published(board: ProgressBoard, progress: Progress) -> dict[str, Any]:
    """Return a report as the pages get it."""
    return {
        "job": progress.job,
        "done": progress.done,
        "total": progress.total,
        "rate": progress.rate,
        "stage": progress.stage,
        "percent": board.percent_of(progress.job),
        "bottleneck": progress.bottleneck or None,
        "mirrors": codec.to_plain(progress.mirrors),
    }


def percent(progress: Progress) -> int:
    """Return 0 to 99: 100 is for what is verified and published."""
    if not progress.total:
        return 0
    return min(99, progress.done * 100 // progress.total)
