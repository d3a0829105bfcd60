# SPDX-License-Identifier: Apache-2.0
"""Does the agent do what its manager's documents say, whatever happens in between? (G, T14)"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from fastdl.wire import messages as m
from tests.env.agent_process import (
    CONTENT,
    DIGEST,
    SMALL,
    Process,
    done_of,
    download,
    slowly,
)
from tests.env.origin import FaultOrigin
from tests.env.wire_manager import WireManager


def test_a_fresh_host_enrols_and_says_what_it_has(agent: Process, manager: WireManager) -> None:
    """Keys, keystore and properties are made where there were none; nothing is world-readable."""
    host = manager.host()
    (hello,) = manager.all(m.Hello)
    (pool,) = hello.inventory.pools
    assert (hello.host_id, pool.name, pool.type, pool.error) == (host, "images", "Filesystem", None)
    assert pool.available > 0
    assert hello.inventory.certificates == ()
    assert hello.inventory.keystore_error is None
    assert set(hello.kinds) == set(m.Kind)
    assert manager.wait(lambda: next(iter(manager.all(m.Beat)), None))
    for path in (*agent.state.iterdir(), *agent.config.iterdir()):
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path


def test_a_download_is_done_reported_and_remembered(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G01: delivered again, after completion, under a higher fence: one download, same answer."""
    host = manager.host()
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    for _ in range(3):
        manager.want(host, command)
    done = done_of(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert (done.virtual_size, done.integrity) == (len(CONTENT), "strong")
    assert not done.already_present
    seen = len(origin.requests)
    manager.want(host, replace(command, fence=2))
    again = done_of(manager.result(command.job, fence=2))
    assert again == done
    other = replace(command, job="another", fence=1)
    manager.want(host, other)
    assert done_of(manager.result("another")).already_present
    assert len(origin.requests) == seen
    assert {p.job for p in manager.all(m.JobStarted)} == {command.job, "another"}


def test_kill_minus_9_costs_little_and_needs_no_manager(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G02: the restarted agent goes on by itself and reports when the manager is back."""
    host = manager.host()
    slowly(origin)
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 2)
    agent.stop(signal.SIGKILL)
    assert agent.visible() == []
    manager.stop()
    origin.resources["/x.raw"].rules.clear()
    agent.start()
    assert agent.process is not None
    deadline = 60
    while not agent.visible() and deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.process.wait(0.25)
        deadline -= 1
    assert agent.visible(), agent.log.read_text()
    assert manager.all(m.JobResult) == []
    manager.start()
    done = done_of(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert origin.sent < 1.6 * len(CONTENT)


def test_a_worker_that_dies_fails_its_job_and_nothing_else(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G07: whatever a hostile image does to the process that reads it, the agent goes on."""
    host = manager.host()
    slowly(origin)
    command = download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    assert agent.process is not None
    (server,) = _children(agent.process.pid)
    (worker,) = _children(server)
    os.kill(worker, signal.SIGSEGV)
    result = manager.result(command.job)
    assert result.failure is not None
    failure = result.failure
    assert (failure.code, failure.retryable, failure.elsewhere) == (74, False, False)
    assert "SIGSEGV" in failure.message
    small = download(agent, origin.url("/s.raw"))
    manager.want(host, small)
    assert done_of(manager.result(small.job)).virtual_size == len(SMALL)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_job_missing_from_the_document_is_stopped_and_what_it_fetched_is_kept(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The manager may only have given it to nobody for a moment; the next job goes on."""
    host = manager.host()
    slowly(origin)
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 2)
    manager.want(host)
    result = manager.result(command.job)
    assert result.failure is not None
    assert result.failure.code == 130
    assert agent.visible() == []
    origin.resources["/x.raw"].rules.clear()
    again = replace(command, job="again", fence=2)
    manager.want(host, again)
    done = done_of(manager.result("again"))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert origin.sent < 1.6 * len(CONTENT)
    args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume=command.args.volume)  # type: ignore[union-attr]
    manager.want(host, m.Command(job="remove", kind=m.Kind.REMOVE, fence=3, args=args))
    assert manager.result("remove").done == m.RemoveDone()
    left = {p.name for p in agent.pool.rglob("*") if p.is_file()}
    assert {name for name in left if not name.endswith(".lock")} == {"pool"}


def test_stale_fences_and_revisions_change_nothing(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A zombie manager's document is ignored; a higher fence is adopted without a restart."""
    host = manager.host()
    slowly(origin)
    command = download(agent, origin.url("/x.raw"), fence=5)
    manager.want(host, command, rev=100)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    manager.want(host, rev=99)
    manager.want(host, replace(command, fence=4), rev=101)
    manager.want(host, replace(command, fence=9), rev=102)
    result = manager.result(command.job)
    assert result.fence == 9
    assert done_of(result).virtual_size == len(CONTENT)
    assert len(manager.all(m.JobStarted)) == 1


def test_results_are_repeated_until_they_are_acknowledged(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G03: the answer was lost, or the manager died before it wrote it down."""
    host = manager.host()
    manager.acknowledges = False
    command = download(agent, origin.url("/s.raw"))
    manager.want(host, command)
    manager.result(command.job)
    manager.stop()
    manager.received.clear()
    manager.acknowledges = True
    manager.start()
    assert done_of(manager.result(command.job)).virtual_size == len(SMALL)


def test_sigterm_ends_cleanly_and_the_job_goes_on_later(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A package upgrade in the middle of a download."""
    host = manager.host()
    slowly(origin)
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 3)
    assert agent.stop() == 0
    assert manager.all(m.Goodbye)
    assert manager.all(m.JobResult) == []
    agent.start()
    assert done_of(manager.result(command.job)).virtual_size == len(CONTENT)
    assert origin.sent < 1.7 * len(CONTENT)


def test_progress_comes_about_once_a_second(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Enough for a bar, little enough for ten thousand hosts."""
    host = manager.host()
    slowly(origin, rate=3e6)
    command = download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    seconds = done_of(manager.result(command.job)).seconds
    reports = [p for p in manager.all(m.Progress) if p.job == command.job]
    assert 1 <= len(reports) <= seconds + 3
    assert [p.done for p in reports] == sorted(p.done for p in reports)


def test_a_second_agent_on_the_same_state_is_refused(agent: Process, manager: WireManager) -> None:
    """Two agents with one identity would fight over jobs."""
    manager.host()
    twin = Process.__new__(Process)
    twin.__dict__.update(agent.__dict__)
    twin.start()
    assert twin.process is not None
    assert twin.process.wait(30) == 32


def test_a_token_of_another_manager_is_refused(tmp_path: Path, manager: WireManager) -> None:
    """The fingerprint in the token decides whom a fresh host believes."""
    with WireManager(tmp_path / "stranger") as stranger:
        (tmp_path / "agent").mkdir()
        lost = Process(tmp_path / "agent", stranger)
        lost.manager = manager
        lost.start()
        assert lost.process is not None
        assert lost.process.wait(30) == 71
    assert manager.all(m.Hello) == []


def test_a_job_that_a_lost_connection_brought_is_not_lost(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The connection ends while the job is being written to the journal, as on a slow disk: what
    the journal has is running, and nobody would start it again."""
    host = manager.host()
    command = download(agent, origin.url("/s.raw"))
    before = agent.log.read_text().count("no connection to the manager")
    with contextlib.closing(sqlite3.connect(agent.state / "journal.db")) as slow:
        slow.execute("BEGIN IMMEDIATE")
        manager.want(host, command)
        manager.stop()
        ends = time.monotonic() + 20
        while agent.log.read_text().count("no connection to the manager") == before:
            assert time.monotonic() < ends
            time.sleep(0.05)
        slow.rollback()
    manager.start()
    assert (agent.pool / done_of(manager.result(command.job)).install_path).read_bytes() == SMALL
