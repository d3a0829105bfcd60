# SPDX-License-Identifier: Apache-2.0
"""Progress for people and programs, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastdl.model.units import format_rate

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from fastdl.engine.options import Progress, ProgressCallback

BAR_AFTER_S = 0.3
"""A bar's library costs more processor time to load than a short transfer takes."""


@contextmanager
def make_progress(kind: str, *, quiet: bool) -> Iterator[ProgressCallback | None]:
    """The callback for ``--progress KIND``; None where nothing is shown."""
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() and not quiet else "none"
    if kind == "none":
        yield None
    elif kind == "json":
        yield _json_line
    else:
        bar = _Bar()
        try:
            yield bar.show
        finally:
            bar.close()


def _json_line(state: Progress) -> None:
    import json

    line = {
        "event": "progress",
        "stage": state.stage,
        "done": state.done,
        "total": state.total,
        "fetched": state.fetched,
        "rate": round(state.rate),
        "eta": None if state.eta is None else round(state.eta, 1),
        "connections": state.connections,
    }
    with contextlib.suppress(OSError):  # a log that is full or closed stops no transfer
        print(json.dumps(line), file=sys.stderr, flush=True)


class _Bar:
    """A rich progress bar that appears once a transfer takes long enough to be looked at."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar: tuple[RichProgress, TaskID] | None = None

    def show(self, state: Progress) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < BAR_AFTER_S:
                return
            self._bar = _open_bar()
        bar, task = self._bar
        bar.update(
            task,
            completed=state.done,
            total=state.total,
            description=state.stage,
            note=f"{format_rate(state.rate)}  {state.connections} conn",
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()


def _open_bar() -> tuple[RichProgress, TaskID]:
    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description:>8}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(binary_units=True),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    task = bar.add_task("fetch", total=None, note="")
    bar.start()
    return bar, task
