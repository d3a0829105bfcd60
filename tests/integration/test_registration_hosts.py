# SPDX-License-Identifier: Apache-2.0
"""Registration finds the host that reaches an origin, however many do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import FastdlError, NetError
from fastdl.manager.downloads.probing import HOSTS_MAX
from fastdl.wire import codec
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone

MANY = 24


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A zone without hosts."""
    async with running_zone(tmp_path) as made:
        yield made


async def unreachable(_agent: FakeAgent, _command: m.Command) -> m.Failure:
    """What a host says that has no way to the origin."""
    return codec.failure_of(NetError("the host cannot be connected to"))


async def islands(zone: Zone) -> list[FakeAgent]:
    """Hosts of which none reaches any origin."""
    return [await zone.agent(f"kvm{n}", work={m.Kind.PROBE: unreachable}) for n in range(MANY)]


def asked(hosts: list[FakeAgent]) -> int:
    """How many questions they answered."""
    return sum(what == "started" for host in hosts for what, _ in host.log)


async def test_the_one_host_that_reaches_the_origin_is_found(zone: Zone) -> None:
    """A registration asks so many hosts; a second one goes on with those that were not asked."""
    hosts = await islands(zone)
    await zone.agent("edge")
    try:
        await zone.template("u24")
    except FastdlError:
        assert asked(hosts) == HOSTS_MAX
        await zone.template("u24")
    before = asked(hosts)
    for n in range(3):
        await zone.template(f"v{n}")
    assert asked(hosts) == before  # it is known by now who to ask


async def test_a_refusal_names_the_host_and_how_many_were_asked(zone: Zone) -> None:
    """So that an operator can look at the network of one of them."""
    hosts = await islands(zone)
    text = rf"validation failed on host kvm\d+, the last of {HOSTS_MAX} that were asked: the host"
    with pytest.raises(FastdlError, match=text):
        await zone.template("u24")
    assert asked(hosts) == HOSTS_MAX


async def test_hosts_that_all_reach_an_origin_share_the_questions(zone: Zone) -> None:
    """That one answered well is no reason to ask it for ever."""
    hosts = [await zone.agent(f"kvm{n}") for n in range(8)]
    for n in range(24):
        await zone.template(f"t{n}")
    assert sum(bool(asked([host])) for host in hosts) > 2
