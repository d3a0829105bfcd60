# SPDX-License-Identifier: Apache-2.0
"""All figures of the manager with one command, each beside what was promised."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.options import say

_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A scenario with its arguments, and what its figure *key* must reach."""

    what: str
    words: tuple[str, ...]
    key: str
    unit: str
    least: float | None = None
    most: float | None = None
    postgresql: bool = False

    def kept(self, found: float) -> bool:
        """Whether *found* reaches it."""
        return (self.least is None or found >= self.least) and (
            self.most is None or found <= self.most
        )

    @property
    def text(self) -> str:
        """The promise in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


_AGENTS: Final = ("agents", "--hosts", "3000")
_CERTIFICATE: Final = ("certificate", "--hosts", "1000")
_QUEUE: Final = ("queue", "--jobs", "100000")
PROMISES: Final = (
    Promise(what="jobs admitted, PostgreSQL with fsync", words=("admissions",), least=1000,
            key="admissions_per_s", unit="a second", postgresql=True),
    Promise(what="jobs admitted, SQLite FULL", words=("admissions",), least=300,
            key="admissions_per_s", unit="a second"),
    Promise(what="memory of a queued job, 100,000 of them", words=_QUEUE, most=2048,
            key="memory_bytes_per_job", unit="bytes"),
    Promise(what="database of a queued job", words=_QUEUE, most=2048,
            key="database_bytes_per_job", unit="bytes"),
    Promise(what="`listTemplates` with 10,000 templates, page of 500, median",
            words=("templates", "--count", "10000"), most=100, key="page_500_ms_median",
            unit="ms"),
    Promise(what="a certificate reaches 1,000 hosts", words=_CERTIFICATE, most=10,
            key="reached_all_s", unit="s"),
    Promise(what="the upload's answer with 1,000 outcomes", words=_CERTIFICATE, most=20,
            key="answer_s", unit="s"),
    Promise(what="hosts connected to one manager, all Up", words=_AGENTS, least=3000,
            key="up_at_the_end", unit="hosts"),
    Promise(what="3,000 hosts connect at once", words=_AGENTS, most=30, key="connect_s",
            unit="s"),
    Promise(what="memory of a connected host", words=_AGENTS, most=128,
            key="kib_per_connection", unit="KiB"),
    Promise(what="a processor, with 3,000 hosts beating", words=_AGENTS, most=25,
            key="idle_cpu_percent", unit="%"),
)  # fmt: skip


def run(*, save: bool) -> int:
    """Measure everything; 1 where a promise is not kept."""
    ran: dict[tuple[Any, ...], dict[str, Any] | None] = {}
    with _postgresql() as url, tempfile.TemporaryDirectory() as folder:
        for promise in PROMISES:
            how = (*promise.words, promise.postgresql)
            if how not in ran:
                ran[how] = _measure(promise, url)
                say(f"{' '.join(promise.words)}: {json.dumps(ran[how])}")
        summary = {
            "manager": [
                {
                    "what": p.what,
                    "promised": p.text,
                    "found": found[p.key],
                    "unit": p.unit,
                    "kept": p.kept(found[p.key]),
                }
                for p in PROMISES
                if (found := ran[*p.words, p.postgresql]) is not None
            ],
            "measured": [found for found in ran.values() if found is not None],
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": machine.commit(),
            "machine": machine.describe(Path(folder)),
        }
    if save:
        say(f"stored {save(summary, 'manager')}")
    print(table(summary))
    return int(not all(entry["kept"] for entry in summary["manager"]))


def _measure(promise: Promise, url: str | None) -> dict[str, Any] | None:
    """One scenario in a process of its own, so that memory is its own; None = no database."""
    words = [*promise.words]
    if promise.postgresql:
        if url is None:
            say("PostgreSQL is not installed: skipped")
            return None
        words += ["--database", url]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.manager.scale", *words],
        cwd=machine.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{promise.what}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _postgresql() -> Iterator[str | None]:
    """A server with fsync on, or None where there is none to start."""
    import pytest  # noqa: PLC0415 - the tests' server says with it that it is not installed

    from tests.env import postgresql  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(postgresql.server(fsync=True))
        except pytest.skip.Exception:
            yield None
            return
        yield url


def table(summary: dict[str, Any]) -> str:
    """A stored result as Markdown."""
    rows = ["| what | found | promised |", "|---|---|---|"]
    rows += [
        f"| {entry['what']} | {entry['found']:,g} {entry['unit']}"
        f"{'' if entry['kept'] else ' **(missed)**'} | {entry['promised']} |"
        for entry in summary["manager"]
    ]
    return "\n".join(rows)
