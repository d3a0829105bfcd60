# SPDX-License-Identifier: Apache-2.0
"""The lines of ``-v`` about a running job: each request, its response, and why one was left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdl.engine.source.first_response import displayed

if TYPE_CHECKING:
    from fastdl.core.job import Job
    from fastdl.engine.context import Events
    from fastdl.engine.source.facts import SourceFacts


class RequestLog:
    """Logs what *job* reports of its requests, without secrets, as often as ``look`` is called."""

    def __init__(self, job: Job, facts: SourceFacts, events: Events) -> None:
        self._job = job
        self._facts = facts
        self._events = events
        self._states = [mirror.state for mirror in facts.mirrors]

    def look(self) -> None:
        """Log what has happened since the last look."""
        notes, lost = self._job.requests()
        for note in notes:
            self._events.note(self._line(note))
        if lost:
            self._events.note(f"… and {lost} more")
        for i, (url, mirror) in enumerate(zip(self._facts.urls, self._facts.mirrors, strict=True)):
            before, self._states[i] = self._states[i], mirror.state
            if mirror.state != before and mirror.state == "disqualified":
                self._events.note(f"! left {url.display()}: {mirror.reason}")

    def _line(self, note: dict[str, Any]) -> str:
        url = self._facts.urls[note["mirror"]].display()
        by = f"connection {note['connection']}"
        if note["error"] is not None:
            return f"! {by}, {url}: {note['error'].code_name}: {note['error']}"
        range_ = _range(note["first"], note["last"])
        if note["status"]:
            took = f", {note['seconds'] * 1000:.0f} ms" if note["seconds"] else ""
            return f"< {note['status']}{range_}, {by}{took}"
        where = f"{url}, redirected to {displayed(note['where'])}" if note["where"] else url
        return f"> GET {where}{range_}, {by}{' (new)' if note['fresh'] else ''}"


def _range(first: int | None, last: int | None) -> str:
    if first is None:
        return ""
    return f", bytes {first}-{'' if last is None else last}"
