# SPDX-License-Identifier: Apache-2.0
"""Is a manager missed when it falls silent, and not because of our own connection?"""

from __future__ import annotations

from fastdl.manager.fabric.watch import GONE_S, GRACE_S, Watch


def test_a_silent_manager_is_reported_once() -> None:
    """After a few missed beats, and again only if it came back."""
    watch = Watch("a")
    watch.connected(0.0)
    for now in (0.0, 1.0, 2.0):
        watch.hear("b", now)
    watch.hear("a", 2.0 + GONE_S)
    assert watch.take_gone(2.0 + GONE_S) == []
    watch.hear("a", 2.1 + GONE_S)
    assert watch.take_gone(2.1 + GONE_S) == ["b"]
    assert watch.take_gone(2.1 + GONE_S) == []
    watch.hear("b", 10.0)
    watch.hear("a", 20.0)
    assert watch.take_gone(20.0) == ["b"]


def test_who_said_that_it_stops_is_not_missed() -> None:
    """Its chores are handed over."""
    watch = Watch("a")
    watch.connected(0.0)
    watch.hear("b", 0.0)
    watch.leave("b")
    watch.leave("a")
    watch.hear("a", 60.0)
    assert watch.take_gone(60.0) == []


def test_a_broken_connection_makes_nobody_else_silent() -> None:
    """Not while our own messages do not come back, nor until the others had time to connect."""
    watch = Watch("a")
    watch.connected(0.0)
    watch.hear("b", 0.0)
    assert watch.take_gone(60.0) == []
    assert watch.is_deaf(60.0)
    watch.connected(60.0)
    assert not watch.is_deaf(60.0)
    watch.hear("a", 60.0 + GRACE_S)
    assert watch.take_gone(60.0 + GRACE_S) == []
    watch.hear("a", 60.1 + GRACE_S)
    assert watch.take_gone(60.1 + GRACE_S) == ["b"]
