# SPDX-License-Identifier: Apache-2.0
"""Medians, quartiles and paired ratios: all the arithmetic behind the results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def summary(values: Sequence[float]) -> dict[str, Any]:
    """n, median and quartiles of *values* (inclusive method); n = 0 gives nulls."""
    if not values:
        return {"n": 0, "median": None, "p25": None, "p75": None}
    if len(values) == 1:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "n": len(values),
        "median": round(middle, 4),
        "p25": round(low, 4),
        "p75": round(high, 4),
    }


def paired(mine: dict[int, float], other: dict[int, float]) -> list[float]:
    """other / mine for every round in which both have a value: above 1, mine is better."""
    return [other[turn] / mine[turn] for turn in sorted(mine.keys() & other.keys()) if mine[turn]]
