# SPDX-License-Identifier: Apache-2.0
"""Until when is a manager sure to count this host's downloads?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fastdl.agent.lease import Lease


class Clock:
    """Seconds since the boot, as the test says."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where it is kept."""
    return tmp_path / "lease"


def test_without_a_managers_word_it_does_not_end(path: Path, clock: Clock) -> None:
    """A new host, and one whose manager gives no leases."""
    lease = Lease(path, clock=clock)
    assert lease.left == math.inf
    lease.granted(0, sole=False, heard=1.0)
    lease.end()
    clock.now += 1e6
    assert lease.left == Lease(path, clock=clock).left == math.inf
    assert not path.exists()


def test_it_ends_some_time_after_the_manager_last_heard_the_host(path: Path, clock: Clock) -> None:
    """What counts is when the host spoke, not when the reply arrived; the past changes nothing."""
    lease = Lease(path, clock=clock)
    lease.granted(25, sole=False, heard=990)
    assert lease.left == 15
    lease.heard(998)
    lease.heard(980)
    assert lease.left == 23
    clock.now += 23
    assert lease.left == 0
    lease.heard(1020)
    assert lease.left == 22


def test_where_the_only_manager_does_not_run_nobody_gives_anything_away(
    path: Path, clock: Clock
) -> None:
    """The lease lives on while its port refuses connections; one that has ended does not return."""
    lease = Lease(path, clock=clock)
    lease.granted(25, sole=True, heard=1000)
    clock.now = 1020
    lease.absent(1019)
    assert lease.left == 24
    clock.now = 1050
    lease.absent(1049)
    assert lease.left == 0
    lease.granted(25, sole=False, heard=1050)
    lease.absent(1060)
    assert lease.left == 25


def test_an_agent_that_starts_again_knows_it(path: Path, clock: Clock) -> None:
    """It is readable by its owner only; after a boot of the host it has ended."""
    Lease(path, clock=clock).granted(25, sole=False, heard=1000)
    clock.now += 10
    assert Lease(path, clock=clock).left == 15
    assert path.stat().st_mode & 0o077 == 0
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"boot": "another"}))
    assert Lease(path, clock=clock).left == 0
    path.write_text(json.dumps(kept | {"until": 1e9}))
    assert Lease(path, clock=clock).left == 25


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"seconds": "x"}', "\x00"])
def test_a_damaged_file_is_a_lease_that_has_ended(path: Path, clock: Clock, text: str) -> None:
    """There was one, and a crash of the host ends it. The next connection brings the terms."""
    path.write_text(text)
    lease = Lease(path, clock=clock)
    assert lease.left == 0
    lease.heard(1000)
    lease.absent(1000)
    assert lease.left == 0
    lease.granted(25, sole=False, heard=1000)
    assert lease.left == Lease(path, clock=clock).left == 25
    path.write_text(text)
    lease = Lease(path, clock=clock)
    lease.granted(0, sole=False, heard=1000)
    assert lease.left == Lease(path, clock=clock).left == math.inf


def test_a_refused_host_stops_at_once(path: Path, clock: Clock) -> None:
    """Its work was given to others when it was deleted."""
    lease = Lease(path, clock=clock)
    lease.granted(25, sole=False, heard=1000)
    lease.end()
    assert lease.left == Lease(path, clock=clock).left == 0
