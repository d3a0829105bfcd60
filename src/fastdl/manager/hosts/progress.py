# SPDX-License-Identifier: Apache-2.0
"""How far running downloads are: the latest report of each host, kept in memory only."""

from __future__ import annotations

from dataclasses import replace

from fastdl.wire.messages import Progress


class ProgressBoard:
    """Progress by job. A host can report only downloads that its document gave it.

    Within an attempt it never goes back, although the work may: a resume reads parts again, and an
    image may be unpacked first and converted afterwards.
    """

    def __init__(self) -> None:
        self._holder: dict[str, str] = {}
        self._latest: dict[str, Progress] = {}
        self._percent: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}

    def given(self, job: str, host: str) -> None:
        """Note that *host* was sent *job*."""
        self._holder[job] = host

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
        self._percent[job] = self._unsaved[job] = max(least, percent(progress))
        return True

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

    def take_unsaved(self) -> dict[str, int]:
        """Return the percentages to store, once."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved

    def all(self) -> dict[str, Progress]:
        """Return the latest report on every running job."""
        return dict(self._latest)


def percent(progress: Progress) -> int:
    """Return 0 to 99: 100 is for what is verified and published."""
    if not progress.total:
        return 0
    return min(99, progress.done * 100 // progress.total)
