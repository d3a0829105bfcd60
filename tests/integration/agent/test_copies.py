# SPDX-License-Identifier: Apache-2.0
"""Which copies does an agent keep, replace and remove?"""

from __future__ import annotations

import signal
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
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin
from tests.env.wire_manager import WireManager


def test_two_jobs_for_one_volume_make_one_download(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Single-flight per (template, pool), also inside one host."""
    host = manager.host()
    first = download(agent, origin.url("/x.raw"), checksum=DIGEST, volume="same")
    second = replace(first, job="second")
    manager.want(host, first, second)
    results = [done_of(manager.result(first.job)), done_of(manager.result("second"))]
    assert sorted(r.already_present for r in results) == [False, True]
    assert origin.sent < 1.5 * len(CONTENT)


def test_removing_a_copy_removes_what_an_unfinished_download_left(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A template that is deleted while it is fetched leaves nothing."""
    host = manager.host()
    slowly(origin, rate=2e6)
    command = download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume=command.args.volume)  # type: ignore[union-attr]
    manager.want(host, m.Command(job="remove", kind=m.Kind.REMOVE, fence=2, args=args))
    assert manager.result("remove").done == m.RemoveDone(was_present=False)
    left = {p.name for p in agent.pool.rglob("*") if p.is_file()}
    assert {name for name in left if not name.endswith(".lock")} == {"pool"}


def test_a_copy_is_removed_with_its_marker(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Absent is success."""
    host = manager.host()
    command = download(agent, origin.url("/s.raw"), volume="v1")
    manager.want(host, command)
    done_of(manager.result(command.job))
    for job, present in (("r1", True), ("r2", False)):
        args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume="v1", install_path="v1")
        manager.want(host, m.Command(job=job, kind=m.Kind.REMOVE, fence=1, args=args))
        assert manager.result(job).done == m.RemoveDone(was_present=present)
    assert agent.visible() == []


def test_a_device_holds_one_template_at_a_time(
    tmp_path: Path, agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A block device as primary storage: filled, kept, freed, and never shown half written."""
    host = manager.host()
    with loop_device(tmp_path, size=32 * 1024 * 1024) as device:
        device.fill(0xA5, 4 << 20)
        assert agent.stop() == 0
        manager.received.clear()
        agent.start("--pool", f"fast={device.path}")
        hello = manager.wait(lambda: next(iter(manager.all(m.Hello)), None))
        pool = next(p for p in hello.inventory.pools if p.name == "fast")
        assert (pool.type, pool.capacity) == ("Block", 32 * 1024 * 1024)
        first = download(agent, origin.url("/x.raw"), pool=pool.id, checksum=DIGEST)
        manager.want(host, first)
        assert done_of(manager.result(first.job)).install_path == device.path
        assert device.read(len(CONTENT)) == CONTENT
        second = download(agent, origin.url("/s.raw"), pool=pool.id)
        manager.want(host, second)
        failure = manager.result(second.job).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == (32, True)
        args = m.RemoveArgs(template="t1", pool=pool.id, volume=_volume(first))
        manager.want(host, m.Command(job="rm", kind=m.Kind.REMOVE, fence=1, args=args))
        assert manager.result("rm").done == m.RemoveDone(was_present=True)
        assert device.read(1 << 20) == bytes(1 << 20)
        third = download(agent, origin.url("/s.raw"), pool=pool.id)
        manager.want(host, third)
        assert done_of(manager.result(third.job)).virtual_size == len(SMALL)
        assert device.read(len(SMALL)) == SMALL
        agent.stop()


def test_a_device_is_resumed_after_a_kill_and_blank_after_a_stop(
    tmp_path: Path, agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """R01 on a device: its journal is in the agent's state, inside the confinement."""
    host = manager.host()
    with loop_device(tmp_path, size=32 * 1024 * 1024) as device:
        assert agent.stop() == 0
        manager.received.clear()
        agent.start("--pool", f"fast={device.path}")
        hello = manager.wait(lambda: next(iter(manager.all(m.Hello)), None))
        pool = next(p.id for p in hello.inventory.pools if p.name == "fast")
        slowly(origin)
        command = download(agent, origin.url("/x.raw"), pool=pool, checksum=DIGEST)
        manager.want(host, command)
        origin.wait_for(lambda: origin.sent > len(CONTENT) * 2 // 3)
        agent.stop(signal.SIGKILL)
        assert device.read(1 << 20) == bytes(1 << 20)
        agent.start("--pool", f"fast={device.path}")
        done_of(manager.result(command.job))
        assert device.read(len(CONTENT)) == CONTENT
        assert origin.sent < 1.6 * len(CONTENT)
        args = m.RemoveArgs(template="t1", pool=pool, volume=_volume(command))
        manager.want(host, m.Command(job="rm", kind=m.Kind.REMOVE, fence=1, args=args))
        manager.result("rm")
        sent = origin.sent
        second = download(agent, origin.url("/x.raw"), pool=pool)
        manager.want(host, second)
        origin.wait_for(lambda: origin.sent > sent + len(CONTENT) // 3)
        manager.want(host)
        failure = manager.result(second.job).failure
        assert failure is not None
        assert failure.code == 130
        assert device.read(1 << 20) == bytes(1 << 20)
        agent.stop()


def _volume(command: m.Command) -> str:
    assert isinstance(command.args, m.DownloadArgs)
    return command.args.volume
