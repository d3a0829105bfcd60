# SPDX-License-Identifier: Apache-2.0
"""Which part of a history suffices? Steps are left out for as long as something is violated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from scripts.simulating.history import Step
from scripts.simulating.run import Outcome


def shortest(
    found: Outcome, again: Callable[[Sequence[Step]], Outcome], *, seconds: float
) -> Outcome:
    """Return the shortest violating history found in *seconds*; *again* runs the zone with
    other steps."""
    until = time.monotonic() + seconds
    best, part = found, max(1, len(found.steps) // 2)
    while time.monotonic() < until:
        shorter = False
        for start in range(0, len(best.steps), part):
            steps = [*best.steps[:start], *best.steps[start + part :]]
            tried = again(steps)
            if tried.violations:
                best, shorter = tried, True
                break
            if time.monotonic() > until:
                break
        if not shorter:
            if part == 1:
                break
            part = max(1, part // 2)
    return best
