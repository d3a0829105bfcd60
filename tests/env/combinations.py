# SPDX-License-Identifier: Apache-2.0
"""Which combinations of ledger and fabric has a run tried, and which not?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import pytest

PROPERTY = "combination"
"""The property under which a test reports its combination."""

_RAN: Mapping[str, Counter[str]] = defaultdict(Counter)


def note(report: pytest.TestReport) -> None:
    """Count how a test of a combination ended."""
    for name, value in report.user_properties:
        if name == PROPERTY and (report.when == "call" or report.outcome != "passed"):
            _RAN[str(value)][report.outcome] += 1


def summarise(reporter: pytest.TerminalReporter) -> None:
    """Print it."""
    if not _RAN:
        return
    reporter.write_sep("-", "ledger and fabric: combinations that were tried")
    for name, ends in sorted(_RAN.items()):
        counts = ", ".join(f"{count} {word}" for word, count in sorted(ends.items()))
        reporter.write_line(
            f"{name}: {counts}" + (" (NOT TRIED)" if set(ends) == {"skipped"} else "")
        )
