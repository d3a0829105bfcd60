# SPDX-License-Identifier: Apache-2.0
"""Can a host always be brought back, and only by whom it belongs to? Real managers and agents."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent import identity
from fastdl.errors import ApiConflictError
from fastdl.manager.hosts import ca
from tests.env.manager import Client
from tests.env.process import AgentProcess, ManagerProcess, eventually

MakeAgent = Callable[[str], Awaitable[AgentProcess]]


class Site:
    """A manager process with a zone, and agent processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = ManagerProcess(folder)
        self.agents: list[AgentProcess] = []
        self.api: Client
        self.zone = ""

    async def start(self) -> None:
        """Start the manager; the zone is made at its first start."""
        self.api = await self.manager.start()
        zones = (await self.api("listZones")).get("zone")
        row = zones[0] if zones else (await self.api("createZone", name="z1"))["zone"]
        self.zone = row["id"]

    async def token(self, **params: str) -> str:
        """A fresh token."""
        token: str = (await self.api("createHostToken", zoneid=self.zone, **params))["token"]
        return token

    def agent(self, name: str) -> AgentProcess:
        """An agent that was never started."""
        made = AgentProcess(self.folder, name, self.manager)
        self.agents.append(made)
        return made

    async def up(self, name: str) -> dict[str, Any]:
        """Wait for the host to be Up; as listHosts shows it."""

        async def check() -> dict[str, Any] | None:
            found = (await self.api("listHosts", name=name, state="Up")).get("host")
            return found[0] if found else None

        found: dict[str, Any] = await eventually(check)
        return found

    async def token_states(self) -> list[str]:
        """The states of all tokens, in the order in which they were made."""
        listed = (await self.api("listHostTokens")).get("hosttoken", [])
        return [token["state"] for token in listed]

    async def close(self) -> None:
        """End everything."""
        for process in (*self.agents, self.manager):
            if process.alive:
                await process.end(signal.SIGKILL)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A running manager without hosts."""
    made = Site(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def age(site: Site, agent: AgentProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the agent's certificate by one that has expired, as ninety days away would."""
    with monkeypatch.context() as patch:
        patch.setattr(ca, "HOST_DAYS", -0.5)
        authority = ca.open_authority(site.manager.state / "ca")
        who = json.loads((agent.state / "host.json").read_text())
        held = identity.load(agent.state)
        assert held is not None
        certificate, _ = authority.sign_host(held.csr(), who["host_id"])
        (agent.state / "host.pem").write_text(certificate)


def said(agent: AgentProcess, text: str) -> Callable[[], Awaitable[bool]]:
    """Whether the agent's log has *text*."""

    async def check() -> bool:
        return text in agent.log()

    return check


async def test_a_host_that_was_away_for_ninety_days_heals_with_a_token(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, or with the used one, it says so once and ends; with one it is itself again."""
    agent, first = site.agent("kvm1"), await site.token()
    await agent.start(first)
    host = await site.up("kvm1")
    assert await agent.end(signal.SIGTERM) == 0
    age(site, agent, monkeypatch)
    for token in (None, first):
        before = agent.log()
        await agent.start(token)
        assert await agent.ended() == 71
        said_now = agent.log()[len(before) :]
        assert "certificate expired on" in said_now
        assert "createHostToken" in said_now
        assert "Traceback" not in said_now
    await agent.start(await site.token())
    assert (await site.up("kvm1"))["id"] == host["id"]
    assert (await site.api("listHosts"))["count"] == 1
    assert await site.token_states() == ["Used", "Used"]
    assert await agent.end(signal.SIGTERM) == 0
    await agent.start(first)  # the same words as ever
    assert (await site.up("kvm1"))["id"] == host["id"]


async def test_a_good_identity_uses_no_token(site: Site) -> None:
    """It stays for the day on which it is needed."""
    agent = site.agent("kvm1")
    await agent.start(await site.token())
    await site.up("kvm1")
    assert await agent.end(signal.SIGTERM) == 0
    await agent.start(await site.token())
    host = await site.up("kvm1")
    assert await site.token_states() == ["Used", "Unused"]
    # The host is deleted under the running agent: now it is needed, and no restart is.
    await site.api("deleteHost", id=host["id"], forced="true")
    again = await site.up("kvm1")
    assert again["id"] != host["id"]
    assert await site.token_states() == ["Used"]  # the first went with its host


async def test_a_deleted_host_stays_out_until_it_gets_a_token(site: Site) -> None:
    """Its agent says why, does not hammer the manager, and enrols with a new token."""
    agent, token = site.agent("kvm1"), await site.token()
    await agent.start(token)
    host = await site.up("kvm1")
    await site.api("deleteHost", id=host["id"], forced="true")
    await eventually(said(agent, "this host is not enrolled here"))
    assert agent.log().count("not enrolled here") == 1
    assert agent.alive
    assert await agent.end(signal.SIGTERM) == 0
    await agent.start(token)
    await eventually(lambda: twice(agent, "not enrolled here"))
    assert await agent.end(signal.SIGTERM) == 0
    await agent.start(await site.token())
    assert (await site.up("kvm1"))["id"] != host["id"]
    pools = (await site.api("listStoragePools"))["storagepool"]
    assert [(p["name"], p["state"]) for p in pools] == [("kvm1-pool", "Up")]


async def twice(agent: AgentProcess, text: str) -> bool:
    """Whether the agent's log has *text* twice."""
    return agent.log().count(text) == 2


async def test_a_machine_set_up_again_takes_its_old_place(site: Site) -> None:
    """A token made for the host; its data disk, with the pool, survived."""
    agent = site.agent("kvm1")
    await agent.start(await site.token())
    host = await site.up("kvm1")
    assert await agent.end(signal.SIGKILL) == -signal.SIGKILL
    shutil.rmtree(agent.state)
    shutil.rmtree(agent.folder / "conf")
    await agent.start(await site.token(hostid=host["id"]))
    assert (await site.up("kvm1"))["id"] == host["id"]
    pools = (await site.api("listStoragePools"))["storagepool"]
    assert [(p["name"], p["state"]) for p in pools] == [("kvm1-pool", "Up")]


async def test_a_copied_state_folder_is_noticed(site: Site) -> None:
    """A cloned machine and a thief look the same: the second is refused, an event says so."""
    agent = site.agent("kvm1")
    await agent.start(await site.token())
    host = await site.up("kvm1")
    clone = site.agent("kvm2")
    clone.state.parent.mkdir(exist_ok=True)
    shutil.copytree(agent.state, clone.state)
    await clone.start()
    await eventually(said(agent, "another agent that is this host is connected"))
    events = (await site.api("listEvents", type="HOST.TWO.AGENTS"))["event"]
    assert "createHostToken hostid" in events[0]["description"]
    # The owner gets a new key; what was copied is worth nothing from then on.
    key = (agent.state / "host.key").read_bytes()
    assert await agent.end(signal.SIGTERM) == 0
    await agent.start(await site.token(hostid=host["id"]))
    await eventually(said(clone, "this host is not enrolled here"))
    assert (await site.up("kvm1"))["id"] == host["id"]
    assert (agent.state / "host.key").read_bytes() != key


@pytest.mark.parametrize(
    ("more", "pools", "text"),
    [
        (("--pool", "p=relative/path"), False, "write NAME=/absolute/path"),
        (("--pool", "a=/x", "--pool", "a=/y"), False, "a pool of this name already"),
        (("--max-downloads", "0"), True, "--max-downloads is between"),
    ],
    ids=["relative", "twice", "none"],
)
async def test_a_wrong_option_uses_no_token(
    site: Site, more: tuple[str, ...], pools: bool, text: str
) -> None:
    """One sentence, at once, and the token is there for the next try."""
    agent, token = site.agent("kvm1"), await site.token()
    await agent.start(token, *more, pools=pools)
    assert await agent.ended() == 2
    assert text in agent.log()
    assert "Traceback" not in agent.log()
    assert await site.token_states() == ["Unused"]
    await agent.start(token)
    await site.up("kvm1")


async def test_a_missing_library_uses_no_token(site: Site) -> None:
    """Without --pool the pools are libvirt's, which needs an extra."""
    agent, token = site.agent("kvm1"), await site.token()
    words = ["--manager", f"https://{site.manager.agents}", "--token", token]
    words += ["--state", str(agent.state), "--config-dir", str(agent.folder / "conf")]
    main = "import sys; sys.modules['libvirt'] = None; from fastdl.cli.main import main; "
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{main}raise SystemExit(main())",
        "agent",
        *words,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"libvirt pools need" in err
    assert b"Traceback" not in err
    assert await site.token_states() == ["Unused"]


async def cas(site: Site) -> list[tuple[str, int]]:
    """State of each CA, and how many hosts have its certificate."""
    return [(c["state"], c["hosts"]) for c in (await site.api("listHostCas"))["hostca"]]


def trusts(agent: AgentProcess) -> int:
    """How many CAs the agent takes for the manager's."""
    return (agent.state / "ca.pem").read_text().count("BEGIN CERTIFICATE")


async def test_the_ca_is_replaced_under_running_hosts(site: Site) -> None:
    """Both are good meanwhile, over restarts; who was away is named, and heals with a token."""
    here, away = site.agent("kvm1"), site.agent("kvm2")
    await here.start(await site.token())
    await away.start(await site.token())
    first, second = await site.up("kvm1"), await site.up("kvm2")
    assert await away.end(signal.SIGTERM) == 0
    old = (here.state / "host.pem").read_text()
    with pytest.raises(ApiConflictError, match="No rotation"):
        await site.api("finishHostCaRotation")
    await site.api("startHostCaRotation")
    await eventually(lambda: are(site, [("Current", 1), ("Next", 1)]))
    assert (await site.up("kvm1"))["id"] == first["id"]
    assert trusts(here) == 2
    assert (here.state / "host.pem").read_text() != old
    with pytest.raises(ApiConflictError, match="already"):
        await site.api("startHostCaRotation")
    with pytest.raises(ApiConflictError, match=r"1 hosts have no certificate .* kvm2"):
        await site.api("finishHostCaRotation")

    # A restart of either side in the middle changes nothing; a new host gets the next one's.
    assert await site.manager.end(signal.SIGKILL) == -signal.SIGKILL
    assert await here.end(signal.SIGTERM) == 0
    await site.start()
    await here.start()
    await site.up("kvm1")
    new, unused = site.agent("kvm3"), await site.token()
    await new.start(unused)
    await site.up("kvm3")
    await eventually(lambda: are(site, [("Current", 1), ("Next", 2)]))

    await site.api("finishHostCaRotation", forced="true")
    assert await cas(site) == [("Current", 2)]
    await eventually(lambda: only_one(here, new))
    assert {(await site.up(name))["name"] for name in ("kvm1", "kvm3")} == {"kvm1", "kvm3"}
    assert not (site.manager.state / "ca/ca-next.pem").exists()

    await away.start()
    await eventually(said(away, "of a CA that this host does not trust"))
    assert await away.end(signal.SIGTERM) == 0
    await away.start(await site.token())
    assert (await site.up("kvm2"))["id"] == second["id"]
    assert await cas(site) == [("Current", 3)]


async def are(site: Site, wanted: list[tuple[str, int]]) -> bool:
    """Whether the CAs are as *wanted*."""
    return await cas(site) == wanted


async def only_one(*agents: AgentProcess) -> bool:
    """Whether the agents trust one CA."""
    return all(trusts(agent) == 1 for agent in agents)
