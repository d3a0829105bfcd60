# SPDX-License-Identifier: Apache-2.0
"""Which tests have failed so far? A pytest plugin (``python -m pytest -p scripts.failing``).

The summary comes at the end, and a run that is ended from outside never gets there.
"""

from __future__ import annotations

import pytest


class Failing:
    """Names each failed test as soon as it is known."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the name on a line of its own."""
        if report.failed:
            self._terminal.write_line(f"\nfailed ({report.when}): {report.nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Only the process that prints names them."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failing(terminal))
