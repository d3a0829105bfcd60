# SPDX-License-Identifier: Apache-2.0
"""Do whole zones, drawn from seeds, keep what is promised? And would a broken promise be seen?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastdl.manager.downloads import ends
from fastdl.manager.ledger import slots
from scripts.simulating.run import Outcome, Simulator
from scripts.simulating.shrink import shortest

CHECKOUT = Path(__file__).parents[2]


def test_some_seeds_hold_what_is_promised() -> None:
    """Limits, one completion per copy, no lost job, keystores; in two processes, as a long run."""
    done = subprocess.run(
        ["scripts/simulate", "--seeds", "16", "--hosts", "4", "--processes", "2"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 seeds" in done.stdout


def test_a_seed_is_the_same_run_alone_and_after_others() -> None:
    """Processes run many seeds; what one leaves behind changes nothing in the next."""
    with Simulator() as simulator:
        alone = simulator.run(5, 4)
    with Simulator() as simulator:
        others = [simulator.run(seed, 4).trace for seed in (2, 3)]
        after, again = simulator.run(5, 4), simulator.run(5, 4)
    assert alone.trace == after.trace == again.trace
    assert alone.trace not in others
    assert (alone.jobs, alone.commands, alone.seconds) == (
        after.jobs,
        after.commands,
        after.seconds,
    )


def first_violation(seeds: range) -> Outcome:
    """The first run that violates something."""
    with Simulator() as simulator:
        for seed in seeds:
            found = simulator.run(seed, 4)
            if found.violations:
                return found
    raise AssertionError("nothing was found")


def test_slots_that_are_not_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that forgets to count exceeds a limit, by the hosts' own account."""

    async def usage(_tx: object) -> tuple[dict[str, int], dict[str, int]]:
        return {}, {}

    async def acquire(_tx: object, _wanted: object) -> bool:
        return True

    async def release(_tx: object, _slots: object) -> None:
        pass

    wrongs = {"usage": usage, "acquire": acquire, "release": release, "give_back": release}
    for name, wrong in wrongs.items():
        monkeypatch.setattr(slots, name, wrong)
    found = first_violation(range(1, 20))
    assert "downloads run for" in found.violations[0]


def test_results_that_are_lost_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that loses results never ends a job; the history found is a short one."""

    async def record(_tx: object, reports: Sequence[object], **_: object) -> list[None]:
        return [None for _ in reports]

    monkeypatch.setattr(ends, "record", record)
    monkeypatch.setattr("scripts.simulating.run.HEALED_S", 300.0)
    found = first_violation(range(1, 5))
    assert "it does not settle" in found.violations[0]
    with Simulator() as simulator:
        short = shortest(
            found, lambda steps: simulator.run(found.seed, 4, steps=steps), seconds=5.0
        )
        again = simulator.run(found.seed, 4, steps=short.steps)
    assert len(short.steps) < len(found.steps)
    assert again.violations == short.violations
