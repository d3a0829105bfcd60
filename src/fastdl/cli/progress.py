# SPDX-License-Identifier: Apache-2.0
"""Progress for people and programs, on stderr: a terminal, lines now and then, or JSON.

Jobs report from their own threads; what is shown is drawn by ``tick`` in the main one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from fastdl.cli import streams
from fastdl.model.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from fastdl.engine.options import Progress

BAR_AFTER_S = 0.3
"""A short transfer shows nothing but its result."""
MIN_BAR = 8


class Slot:
    """What one job reports. *label*: its file, as it may be shown."""

    def __init__(self, label: str) -> None:
        self.label = "".join(c if c.isprintable() else "?" for c in label)
        self.state: Progress | None = None
        self.ended = False
        self.began = time.monotonic()
        self.waits_since = self.began

    def show(self, state: Progress) -> None:
        """The job's callback."""
        old = self.state
        if old is None or old.waiting.partition(",")[0] != state.waiting.partition(",")[0]:
            self.waits_since = time.monotonic()
        self.state = state


class Display:
    """Shows nothing: the base of the others."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.expected = 1
        self._lock = threading.Lock()

    def expect(self, jobs: int) -> None:
        """How many jobs there will be."""
        self.expected = jobs

    def add(self, label: str) -> Slot:
        """A job begins."""
        slot = Slot(label)
        with self._lock:
            self.slots.append(slot)
        return slot

    def end(self, slot: Slot) -> None:
        """A job has ended."""
        slot.ended = True

    def say(self, text: str) -> bool:
        """Print *text* on stdout, above what is drawn; see ``streams.report_done``."""
        with self._lock:
            return streams.report_done(text)

    def note(self, text: str) -> None:
        """Print *text* on stderr, above what is drawn; stderr may be closed."""
        with self._lock, contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Draw what has changed."""

    def close(self) -> None:
        """The last line stays."""


class JsonLines(Display):
    """One object a line on stderr, as it comes."""

    def add(self, label: str) -> Slot:
        slot = super().add(label)
        slot.show = lambda state: _json_line(state, slot.label)  # type: ignore[method-assign]
        return slot


class Lines(Display):
    """A line about each job every *interval* seconds, for logs."""

    def __init__(self, interval: float) -> None:
        super().__init__()
        self._interval = interval
        self._at = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._at < self._interval:
            return
        self._at = now
        for slot in self._active():
            self.note(f"fastdl: {slot.label}: {words(slot, now)}")
        if self.expected > 1:
            self.note(f"fastdl: {total_words(self.slots, self.expected)}")

    def _active(self) -> list[Slot]:
        with self._lock:
            return [slot for slot in self.slots if not slot.ended]


class Terminal(Display):
    """A line for each job that runs, redrawn; and a total where there are several."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._drawn = 0

    def end(self, slot: Slot) -> None:
        super().end(slot)
        if self.expected > 1:
            self.tick()

    def say(self, text: str) -> bool:
        with self._lock:
            self._erase()
            return streams.report_done(text)

    def note(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._erase()
            print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        if time.monotonic() - self._began >= BAR_AFTER_S:
            with self._lock:
                self._draw()

    def close(self) -> None:
        with self._lock:
            if self._drawn and self.expected == 1:
                self._draw(last=True)
            elif self._drawn:
                self._erase()
            self._drawn = 0

    def _draw(self, *, last: bool = False) -> None:
        now = time.monotonic()
        width, height = _size()
        alone = self.expected == 1  # its line stays when it has ended
        shown = [slot for slot in self.slots if alone or not slot.ended]
        # More lines than the terminal has could not be gone back over.
        lines = [bar(slot, now, width, last=last) for slot in shown[: max(1, height - 2)]]
        if self.expected > 1:
            lines.append(total_words(self.slots, self.expected)[:width])
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = up + "".join(f"\r\x1b[K{line}\n" for line in lines) + "\x1b[J"
        self._drawn = len(lines)
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"\x1b[{self._drawn}A\r\x1b[J")
                sys.stderr.flush()
        self._drawn = 0


def make_display(kind: str, *, quiet: bool, interval: float) -> Display:
    """What ``--progress KIND`` means. *interval*: seconds between lines; 0: none."""
    if kind == "json":
        return JsonLines()
    if kind == "bar" or (kind == "auto" and not quiet and _is_terminal()):
        return Terminal()
    if interval and kind == "auto" and not quiet:
        return Lines(interval)
    return Display()


def words(slot: Slot, now: float) -> str:
    """How far a job is, in words."""
    state = slot.state
    if state is None:
        return "starting"
    parts = []
    if state.received or state.total is not None:
        of = "" if state.total is None else f" of {format_size(state.total)}"
        share = f" ({_percent(state)}%)" if state.total else ""
        parts.append(f"{format_size(state.received)}{of}{share}")
    if state.stage != "resolve":
        parts += [format_rate(state.rate), f"average {format_rate(state.average)}"]
        if state.eta is not None:
            parts.append(f"{format_duration(state.eta)} left")
        parts.append(_plural(state.connections, "connection"))
        parts.append(_plural(state.mirrors, "mirror"))
    if state.waiting:
        parts.append(_waits(slot, state, now))
    return ", ".join(parts)


def total_words(slots: list[Slot], expected: int) -> str:
    """How far all jobs are."""
    states = [slot.state for slot in slots if slot.state is not None]
    running = [s.state for s in slots if not s.ended and s.state is not None]
    received = sum(state.received for state in states)
    rate = sum(state.rate for state in running)
    done = sum(slot.ended for slot in slots)
    return f"total: {done} of {expected} files, {format_size(received)}, {format_rate(rate)}"


def bar(slot: Slot, now: float, width: int, *, last: bool) -> str:
    """One line of at most *width* characters; *last*: the one that stays."""
    state = slot.state
    label = slot.label if len(slot.label) <= width // 3 else f"…{slot.label[1 - width // 3 :]}"
    if state is None:
        return f"{label}  starting"[:width]
    if state.stage == "resolve":
        return f"{label}  {_waits(slot, state, now) if state.waiting else 'starting'}"[:width]
    whole = state.total is not None and state.received >= state.total
    parts = [format_size(state.received)]
    if state.total is not None and not whole:
        parts[0] += f"/{format_size(state.total)}"
    if last:
        parts.append(f"average {format_rate(state.average)}")
        parts.append(f"in {format_duration(now - slot.began)}")
    else:
        parts += [format_rate(state.rate), f"avg {format_rate(state.average)}"]
        if state.eta is not None:
            parts.append(f"{format_duration(state.eta)} left")
        parts.append(_plural(state.connections, "conn"))
        if state.mirrors > 1:
            parts.append(_plural(state.mirrors, "mirror"))
        if state.waiting:
            parts.append(_waits(slot, state, now))
    text = "  ".join(parts)
    percent = f"{_percent(state):3d}% " if state.total else ""
    room = width - len(label) - len(percent) - len(text) - 6
    if state.total and room >= MIN_BAR:
        filled = room * state.received // state.total
        percent += f"[{'=' * filled}{' ' * (room - filled)}] "
    return f"{label}  {percent}{text}"[:width]


def _waits(slot: Slot, state: Progress, now: float) -> str:
    seconds = int(now - slot.waits_since)
    return f"waiting for {state.waiting}" + (f" ({seconds}s)" if seconds else "")


def _percent(state: Progress) -> int:
    return min(100, 100 * state.received // state.total) if state.total else 0


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _size() -> tuple[int, int]:
    """Columns that may be written, and rows, of the terminal."""
    try:
        found = os.get_terminal_size(2)
    except (OSError, ValueError):
        return 79, 24
    return max(40, found.columns - 1), max(4, found.lines)


def _json_line(state: Progress, label: str) -> None:
    import json

    line = {
        "event": "progress",
        "file": label,
        "stage": state.stage,
        "done": state.done,
        "received": state.received,
        "total": state.total,
        "fetched": state.fetched,
        "rate": round(state.rate),
        "average": round(state.average),
        "eta": None if state.eta is None else round(state.eta, 1),
        "connections": state.connections,
        "mirrors": state.mirrors,
        "waiting": state.waiting,
    }
    with contextlib.suppress(OSError):  # a log that is full or closed stops no transfer
        print(json.dumps(line), file=sys.stderr, flush=True)
