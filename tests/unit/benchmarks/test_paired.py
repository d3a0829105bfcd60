# SPDX-License-Identifier: Apache-2.0
"""A promise is kept by the median of the rounds, and no quartile of them may be a loss."""

from __future__ import annotations

import pytest

from benchmarks import stats
from benchmarks.gate import paired


@pytest.mark.parametrize(
    ("ratios", "word"),
    [
        ([2.0, 2.1, 2.2, 2.3, 2.4], "kept"),
        ([0.5, 0.6, 2.0, 2.1, 2.2], "MISSED (a quartile of the rounds loses)"),
        ([1.6, 1.7, 1.7, 1.9, 1.9], "MISSED (a quartile of the rounds keeps it)"),
        ([1.1, 1.2, 1.3, 1.4, 1.5], "MISSED"),
    ],
)
def test_a_ratio_is_checked_by_median_and_quartiles(ratios: list[float], word: str) -> None:
    """A lucky median over rounds that disagree is not a promise kept."""
    kept = paired._kept("s", "times as fast", 1.8, stats.summary(ratios), no_loss=1)
    assert kept.word == word
    assert kept.kept == (word == "kept")


def test_what_must_be_small_is_checked_from_the_other_side() -> None:
    """For processor time the high quartile is the worse one."""
    fine = paired._kept(
        "s", "of its time", 0.6, stats.summary([0.5, 0.5, 0.6]), no_loss=1, at_most=True
    )
    lost = paired._kept(
        "s", "of its time", 0.6, stats.summary([0.5, 0.5, 1.9]), no_loss=1, at_most=True
    )
    assert fine.kept
    assert not lost.kept


def test_every_promise_is_about_a_scenario_and_rivals_that_exist() -> None:
    """A typo in a rival's name would leave a promise that nobody can break."""
    names = {rival.name for rival in paired.all_rivals()}
    for promise in paired.PROMISES:
        assert paired.parse_scenario(promise.scenario).name == promise.scenario
        assert set(promise.rivals) <= names
