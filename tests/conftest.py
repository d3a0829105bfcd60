# SPDX-License-Identifier: Apache-2.0
"""What do all test folders share? Servers, the landing tests' bench, and what a run proved."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Loaded here and not by its plugin at the end of a deep stack, where CPython 3.11's compiler
# now and then fails with "AST constructor recursion depth mismatch".
import hypothesis  # noqa: F401
import pytest

from fastdl.agent.pools import domains
from tests.env import combinations, libvirtd, postgresql
from tests.env.certs import CertLab
from tests.env.landing import DEVICE, PATTERN, Bench
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import FaultOrigin

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CASE = "fault-matrix-id"
"""The property under which a test reports the id of the fault matrix that it proves."""

_RAN: dict[str, list[str]] = {}


@pytest.fixture(scope="session", autouse=True)
def nothing_of_dead_runs() -> None:
    """What a run that was killed left where libvirt keeps its domains is nobody's."""
    libvirtd.forget_dead_runs()


@pytest.fixture(autouse=True)
def no_domains_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others define here says nothing about a test's own pools."""
    monkeypatch.setattr(domains, "_DEFINED", ())


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> CertLab:
    """One authority for the session, in a folder that servers of another user can enter."""
    return CertLab(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultOrigin]:
    """One origin for the module; each image lies under a path of its own."""
    with FaultOrigin() as server:
        yield server


@pytest.fixture
def bench(origin: FaultOrigin, tmp_path: Path) -> Iterator[Bench]:
    """The origin and this test's own folder."""
    yield Bench(origin, tmp_path)
    origin.resources.clear()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    """A device of DEVICE bytes, full of a former tenant's."""
    with loop_device(tmp_path, size=DEVICE) as found:
        found.fill(PATTERN)
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """One PostgreSQL server for the session: its URL. Skips where it is not installed."""
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """A manager's ``--database``, of each engine: None is SQLite in its state folder."""
    if request.param == "sqlite":
        return None
    server: str = request.getfixturevalue("postgres")
    return postgresql.fresh_database(server, f"t{random.getrandbits(40):x}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember how each run of each id of the fault matrix ended, and of each combination."""
    combinations.note(report)
    for name, value in report.user_properties:
        if name == CASE and (report.when == "call" or report.skipped):
            _RAN.setdefault(str(value), []).append(report.outcome)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which ids of the fault matrix this run has really proved, and which not."""
    combinations.summarise(terminalreporter)
    if not _RAN:
        return
    runs = sum(map(len, _RAN.values()))
    terminalreporter.write_sep("-", f"fault matrix: {len(_RAN)} ids in {runs} runs")
    for word in ("passed", "failed", "skipped"):
        ids = sorted(name for name, ends in _RAN.items() if _worst(ends) == word)
        if ids:
            terminalreporter.write_line(f"{word:>7} ({len(ids)}): {' '.join(ids)}")


def _worst(ends: list[str]) -> str:
    return next(word for word in ("failed", "skipped", "passed") if word in ends)


def pytest_sessionfinish() -> None:
    """Other workers may still use what this one started."""
    libvirtd.end_session()
