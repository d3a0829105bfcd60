# SPDX-License-Identifier: Apache-2.0
"""Does a host that is cut off stop what its manager may have given to others, and only that?"""

from __future__ import annotations

import signal
import time

import pytest

from tests.env.agent_process import (
    CONTENT,
    DIGEST,
    Process,
    done_of,
    download,
    slowly,
)
from tests.env.origin import FaultOrigin
from tests.env.wire_manager import WireManager

LEASE_S = 2.0


@pytest.fixture
def manager(manager: WireManager) -> WireManager:
    """A manager that gives short leases."""
    manager.lease_s = LEASE_S
    return manager


@pytest.fixture
def origin(origin: FaultOrigin) -> FaultOrigin:
    """A slow origin."""
    slowly(origin, rate=0.4e6)
    return origin


def quiet(origin: FaultOrigin, *, within: float = 20) -> None:
    """Wait until nothing was sent for a second."""
    ends = time.monotonic() + within
    sent, since = origin.sent, time.monotonic()
    while time.monotonic() - since < 1:
        assert time.monotonic() < ends, "it goes on"
        time.sleep(0.05)
        if origin.sent != sent:
            sent, since = origin.sent, time.monotonic()


def test_a_host_that_is_cut_off_stops_and_goes_on_when_it_is_asked_again(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Also when the agent is started again meanwhile. What was fetched is kept."""
    host = manager.host()
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 2 << 20)
    manager.stop()
    quiet(origin)
    assert origin.sent < len(CONTENT)
    assert "cut off from the managers" in agent.log.read_text()
    assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
    stopped = origin.sent
    agent.start()
    quiet(origin)
    assert origin.sent == stopped
    origin.resources["/x.raw"].rules.clear()
    manager.start()
    done = done_of(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert origin.sent < 1.6 * len(CONTENT)


def test_what_was_given_to_another_host_does_not_go_on(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Not even for the moments in which other jobs wait to be given again."""
    host = manager.host()
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 2 << 20)
    manager.stop()
    quiet(origin)
    stopped = origin.sent
    manager.want(host)
    manager.start()
    result = manager.result(command.job)
    assert result.failure is not None
    assert result.failure.code == 130
    assert origin.sent == stopped


def test_a_short_cut_disturbs_nothing(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The download goes on meanwhile."""
    manager.lease_s = 30.0
    manager.stop()
    manager.start()
    host = manager.host()
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 2 << 20)
    for _ in range(2):
        manager.stop()
        manager.start()
        manager.host()
    origin.resources["/x.raw"].rules.clear()
    done = done_of(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert "cut off from the managers" not in agent.log.read_text()


def test_a_host_that_stood_still_goes_on(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Its lease ends though its connection does not, as in a paused machine: what it held then has
    to be named again, which no manager does for a connection that stands."""
    command = download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(manager.host(), command)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5 * LEASE_S)  # there is nothing to see: it does not run
    agent.process.send_signal(signal.SIGCONT)
    ends = time.monotonic() + 20
    while "cut off from the managers" not in agent.log.read_text():
        assert time.monotonic() < ends
        time.sleep(0.05)
    origin.resources["/x.raw"].rules.clear()
    done = done_of(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
