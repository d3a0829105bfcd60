# SPDX-License-Identifier: Apache-2.0
"""What do all test folders share? The certificate authority, and what a run really used."""

from __future__ import annotations

import pytest

from tests.env.certs import CertLab

_IDS: set[str] = set()


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> CertLab:
    """One authority for the session, in a folder that servers of another user can enter."""
    folder = tmp_path_factory.mktemp("certs")
    return CertLab(folder)


@pytest.fixture(scope="session")
def ids_run() -> set[str]:
    """The ids of the fault matrix whose case ran to its end and held."""
    return _IDS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which ids of the fault matrix this run has really proved."""
    if _IDS:
        terminalreporter.write_sep("-", f"fault matrix: {len(_IDS)} ids held")
        terminalreporter.write_line(" ".join(sorted(_IDS)))
