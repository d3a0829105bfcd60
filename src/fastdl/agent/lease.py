# SPDX-License-Identifier: Apache-2.0
"""May this host still download? Only while a manager is sure to count its downloads.

A manager that has not heard of a host for some time gives its downloads, and their places at
origins, to other hosts. A host that is cut off does not learn of it: it stops downloading by itself
a little earlier, and goes on with what a manager still wants when it has one again.

Times are seconds since the boot, suspension included.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from fastdl import fs

log = logging.getLogger(__name__)


def now() -> float:
    """Return the time by which leases are measured."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """How long this host may download without a sign of its manager. *path*: where it is kept, so
    that an agent that starts again knows; *clock*: the time."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = now) -> None:
        self._path = path
        self._clock = clock
        self._seconds = 0.0
        self._until = math.inf
        self._sole = False
        self._read()

    @property
    def left(self) -> float:
        """Seconds until it ends, at least 0; infinite where the manager gave none."""
        return max(0.0, self._until - self._clock())

    def granted(self, seconds: float, *, sole: bool, heard: float) -> None:
        """Take the terms of a manager that heard this host at *heard*; 0 *seconds*: no lease.

        *sole*: there is no other manager.
        """
        self._seconds, self._sole = max(0.0, seconds), sole
        self._until = heard + self._seconds if self._seconds else math.inf
        self._write()

    def heard(self, at: float) -> None:
        """Note that a manager heard this host at *at* or later."""
        if self._seconds and at + self._seconds > self._until:
            self._until = at + self._seconds
            self._write()

    def absent(self, at: float) -> None:
        """Note that the manager did not run at *at*: where it is the only one, nobody gave
        anything away until then. A lease that has ended stays ended."""
        if self._sole and self.left:
            self.heard(at)

    def end(self) -> None:
        """End it now: the manager has said that this host's work is not its own any more."""
        if self._seconds:
            self._until = 0.0
            self._write()

    def _read(self) -> None:
        try:
            kept = json.loads(self._path.read_text())
            self._seconds, self._sole = float(kept["seconds"]), bool(kept["sole"])
            same = kept["boot"] == fs.boot_id() and kept["boot"]
            until = float(kept["until"]) if same else 0.0
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as exc:
            # It was not flushed: after a crash of the host it may be empty.
            log.warning("the lease of the last run cannot be read: %s", type(exc).__name__)
            self._until = 0.0
            return
        self._until = min(until, self._clock() + self._seconds) if self._seconds else math.inf

    def _write(self) -> None:
        """Keep it for the next start. Not flushed: a crash of the host ends it anyway."""
        kept = {
            "seconds": self._seconds,
            "sole": self._sole,
            "until": self._until if self._seconds else 0.0,
            "boot": fs.boot_id(),
        }
        if not self._seconds and not self._path.exists():
            return
        with contextlib.suppress(OSError):
            fs.replace_file(self._path, json.dumps(kept).encode(), durable=False)
