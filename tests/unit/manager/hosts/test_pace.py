# SPDX-License-Identifier: Apache-2.0
"""Has every host its share, and nobody more?"""

from __future__ import annotations

from fastdl.manager.hosts import pace
from fastdl.manager.hosts.pace import Allowance


def test_what_exceeds_the_burst_waits() -> None:
    """As long as it takes to come back; other hosts do not notice."""
    allowance = Allowance(100, 10)
    assert [allowance.delay("a", 50, now=0.0) for _ in range(4)] == [0, 0, 5, 10]
    assert allowance.delay("b", 100, now=0.0) == 0
    assert allowance.delay("a", 10, now=5.0) == 6
    assert allowance.delay("a", 10, now=1000.0) == 0


def test_what_is_refused_uses_nothing_up() -> None:
    """A flood of events does not keep later ones from being told."""
    allowance = Allowance(2, 0.5)
    assert [allowance.take("a", now=0.0) for _ in range(5)] == [True, True, False, False, False]
    assert allowance.take("a", now=2.0)
    assert not allowance.take("a", now=2.0)
    assert allowance.take("a", now=1.0) is False  # a clock that went back gives nothing


def test_the_memory_for_hosts_is_bounded() -> None:
    """The one that was silent for longest is forgotten."""
    allowance = Allowance(1, 1)
    for number in range(pace.KNOWN_MAX + 10):
        allowance.take(str(number), now=0.0)
    assert len(allowance._used) == pace.KNOWN_MAX
    assert allowance.take("0", now=0.0)
