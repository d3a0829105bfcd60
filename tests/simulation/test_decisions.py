# SPDX-License-Identifier: Apache-2.0
"""Does a job cost the manager more where there are more hosts? Counted, not timed."""

from __future__ import annotations

import pytest

from benchmarks.manager.decisions import measure


@pytest.mark.parametrize("what", ["statements", "steps", "calls"])
def test_a_job_costs_the_same_in_a_large_zone(
    what: str, costs: dict[int, dict[str, float]]
) -> None:
    """Statements of SQL, rows that SQLite reads for them, and calls of Python functions."""
    small, large = costs[60][what], costs[1200][what]
    assert large <= small * 1.1, f"{what} of a job: {small} among 60 hosts, {large} among 1,200"


@pytest.fixture(scope="module")
def costs() -> dict[int, dict[str, float]]:
    """What one job costs, by the number of hosts."""
    return {hosts: measure(hosts, templates=1) for hosts in (60, 1200)}
