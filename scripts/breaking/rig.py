# SPDX-License-Identifier: Apache-2.0
"""What is broken: three managers, real agents in network namespaces of their own, and origins that
count who downloads what from them at each moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from fastdl.agent import identity
from fastdl.errors import FastdlError
from tests.env import nats
from tests.env.cluster import Cluster, cluster
from tests.env.faults import Answer, Rule, When
from tests.env.manager import Client
from tests.env.origin import FaultOrigin, Request, Resource, pseudo_random
from tests.env.process import FASTDL, AgentProcess, ManagerProcess, eventually

BRIDGE: Final = "10.77.0.1"
ORIGINS: Final = 2
CONNECTIONS: Final = 4
"""Of a download to its origin."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for in a round: *templates* of *size* bytes each in every pool, at *rate* bytes
    a second of one connection; *limit*: downloads at once from an origin, by the setting."""

    size: int
    rate: float
    templates: int
    limit: int

    @property
    def bulk(self) -> int:
        """Of the limit that part which no machine waits for: all downloads here."""
        return self.limit - max(1, self.limit // 8)

    @property
    def lasts(self) -> float:
        """Seconds of a download."""
        return self.size / self.rate / CONNECTIONS

    @property
    def slow(self) -> float:
        """Bytes a second of a connection, at which a download outlasts whatever is waited for."""
        return self.size / CONNECTIONS / 150


FEW: Final = Load(size=24 << 20, rate=0.8e6, templates=8, limit=4)
"""For some hosts: a download takes ten seconds or so."""
MANY: Final = Load(size=3 << 20, rate=0.2e6, templates=5, limit=8)
"""For dozens of hosts on one machine: what they load must not be what is measured."""


class CountingOrigin(FaultOrigin):
    """An origin that knows which host is downloading what from it at every moment.

    *most*: the most downloads (host, file) at one time since ``begin``, *busiest*: these;
    *starts*: when each was seen first, on the steady clock.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._paths: dict[asyncio.Task[Any] | None, str] = {}
        self._running: Counter[tuple[str, str]] = Counter()
        self.begin()

    def begin(self) -> None:
        """Forget what was counted."""
        self.sent = self.most = 0
        self.busiest: list[tuple[str, str]] = []
        self.starts: dict[tuple[str, str], float] = {}

    @property
    def running(self) -> set[tuple[str, str]]:
        """The downloads of this moment."""
        return set(self._running)

    def _record(self, head: str, number: int) -> Request:
        request = super()._record(head, number)
        self._paths[asyncio.current_task()] = request.path
        return request

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer, *, bodyless: bool) -> bool:
        peer = writer.get_extra_info("peername")
        key = (peer[0] if peer else "gone", self._paths[asyncio.current_task()])
        self._running[key] += 1
        self.starts.setdefault(key, time.monotonic())
        if len(self._running) > self.most:
            self.most, self.busiest = len(self._running), sorted(self._running)
        try:
            return await super()._send(writer, answer, bodyless=bodyless)
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


class Space:
    """A network namespace with one address on the bridge. A process holds it, and ends it."""

    def __init__(self, number: int) -> None:
        self.address = f"10.77.0.{10 + number}"
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        pid = self._holder.pid
        mine = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{pid}/ns/net").readlink() == mine:
            time.sleep(0.01)
        self.prefix = ("nsenter", f"--net=/proc/{pid}/ns/net")
        name = f"h{number}"
        _run("ip", "link", "add", name, "type", "veth", "peer", "eth0", "netns", str(pid))
        _run("ip", "link", "set", name, "master", "hosts", "up")
        self._inside("ip", "link", "set", "lo", "up")
        self._inside("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")

    def cut(self, ports: list[str], *, incoming: bool, outgoing: bool) -> None:
        """Drop the packets from and to *ports* of the managers, in one direction or both."""
        rules = ["table inet cut {"]
        listed = ", ".join(ports)
        for hook, side, wanted in (("input", "sport", incoming), ("output", "dport", outgoing)):
            if wanted:
                rules.append(
                    f"chain {hook} {{ type filter hook {hook} priority 0; "
                    f"tcp {side} {{ {listed} }} drop; }}"
                )
        self._inside("nft", "-f", "-", text="\n".join([*rules, "}"]))

    def mend(self) -> None:
        """Let all packets pass again."""
        self._inside("nft", "flush", "ruleset")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait(10)

    def _inside(self, *words: str, text: str = "") -> None:
        _run(*self.prefix, *words, text=text)


def _run(*words: str, text: str = "") -> None:
    done = subprocess.run(words, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")


@contextlib.contextmanager
def spaces(count: int) -> Iterator[list[Space]]:
    """*count* namespaces on one bridge, in a namespace that this process has for itself."""
    made: list[Space] = []
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "hosts", "type", "bridge")
    _run("ip", "address", "add", f"{BRIDGE}/24", "dev", "hosts")
    _run("ip", "link", "set", "hosts", "up")
    try:
        made.extend(Space(number) for number in range(count))
        yield made
    finally:
        for space in made:
            space.close()
        _run("ip", "link", "delete", "hosts")


@dataclass
class Rig:
    """*agents* n has its namespace *spaces* n; without namespaces there are none."""

    folder: Path
    cluster: Cluster
    origins: list[CountingOrigin]
    agents: list[AgentProcess]
    spaces: list[Space]
    load: Load = FEW
    zone: str = ""
    wanted: int = 0
    """Downloads of this round: not fewer begin at the origins."""
    noted: list[str] = field(default_factory=list)
    """What faults found wrong themselves."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Template id → what its copies must hold."""

    async def api(self, command: str, **params: Any) -> dict[str, Any]:
        """Call the API as a client does that tries again: managers come and go."""
        return await _patiently(self.cluster.api, command, params)

    async def start(self) -> None:
        """A zone with all agents Up."""
        self.zone = (await self.api("createZone", name="z1"))["zone"]["id"]
        sites = {"name": "secstorage.allowed.internal.sites", "value": "10.77.0.0/24,127.0.0.0/8"}
        await self.api("updateConfiguration", **sites)
        limit = {"name": "direct.download.origin.max.active", "value": self.load.limit}
        await self.api("updateConfiguration", **limit)
        listed = bool(self.cluster.hosts_nats) and not self.cluster.callout
        if self.cluster.callout:
            await self.cluster.let_hosts_in()
        for agent in self.agents:
            token = (await self.api("createHostToken", zoneid=self.zone))["token"]
            if listed:  # NATS lets in who is enrolled
                managers = [f"https://{self.cluster.managers[0].agents}"]
                await identity.enrol(managers, token, agent.state, name=agent.name)
            else:
                await self.start_agent(agent, "--token", token)
        if listed:
            await self.cluster.let_hosts_in()
            for agent in self.agents:
                await self.start_agent(agent)
        await eventually(self.all_up, within=120 + 10 * len(self.agents))

    async def start_agent(self, agent: AgentProcess, *more: str) -> None:
        """Start it. The first two share a folder beside their own."""
        if agent in self.agents[:2]:
            shared = self.folder / "shared"
            shared.mkdir(exist_ok=True)
            more = (*more, "--pool", f"shared=shared:{shared}")
        if self.cluster.hosts_nats:
            more = (*more, "--nats", self.cluster.hosts_url)
        await agent.start(None, *more)

    async def all_up(self) -> bool:
        """Whether every agent is Up."""
        found = (await self.api("listHosts", state="Up")).get("host", [])
        return len(found) == len(self.agents)

    async def all_begun(self) -> bool:
        """Whether every download of this round has begun."""
        return sum(len(origin.starts) for origin in self.origins) >= self.wanted

    async def templates(self, count: int, seed: int) -> list[str]:
        """Register *count* new ones, shared out among the origins; their ids."""
        made = []
        for number in range(count):
            name = f"t{seed}-{number}"
            content = pseudo_random(seed * 100 + number, self.load.size)
            origin = self.origins[number % len(self.origins)]
            rules = [Rule(when=When(), rate=self.load.rate)]
            origin.resources[f"/{name}.raw"] = Resource.of(content, rules=rules)
            answer = await self.api(
                "registerTemplate",
                name=name,
                url=origin.url(f"/{name}.raw"),
                format="RAW",
                hypervisor="KVM",
                zoneid=self.zone,
                directdownload="true",
                checksum="{SHA-256}" + hashlib.sha256(content).hexdigest(),
            )
            template = answer["template"][0]["id"]
            self.contents[template] = content
            made.append(template)
        return made

    def pace(self, rate: float) -> None:
        """Let origins answer each request from now on with so many bytes a second."""
        for origin in self.origins:
            for resource in origin.resources.values():
                resource.rules[:] = [Rule(when=When(), rate=rate)]

    def cut_database(self, manager: ManagerProcess, *, incoming: bool, outgoing: bool) -> None:
        """Drop the packets between *manager* alone and PostgreSQL: *incoming* what PostgreSQL
        says, *outgoing* what the manager says."""
        door, port = self.cluster.database_doors[manager.state.name], self.cluster.server.port
        said = f"ip saddr {door} tcp sport {port}" if incoming else None
        _drop("database", said, f"ip daddr {door} tcp dport {port}" if outgoing else None)

    def cut_nats(self, servers: list[nats.Server], *, incoming: bool, outgoing: bool) -> None:
        """Drop the packets between all managers and *servers*, which hear each other: *incoming*
        what NATS says, *outgoing* what managers say."""
        ports = f"{{ {', '.join(str(one.port) for one in servers)} }}"
        said = f"tcp sport {ports}" if incoming else None
        _drop("nats", said, f"tcp dport {ports}" if outgoing else None)

    def split_nats(self) -> None:
        """Drop all packets between the NATS servers to hosts: each is alone."""
        ports = f"{{ {', '.join(str(one.route) for one in self.cluster.hosts_nats)} }}"
        _drop("nats", f"tcp sport {ports}", f"tcp dport {ports}")

    def mend(self, what: Literal["database", "nats"]) -> None:
        """Let all packets to *what* pass again."""
        _run("nft", "delete", "table", "inet", what)

    def manager_ports(self) -> list[str]:
        """The ports at which agents find managers, or what carries their messages."""
        found = [self.cluster.agents, *(one.agents for one in self.cluster.managers)]
        found += [server.address for server in self.cluster.hosts_nats]
        return [address.rpartition(":")[2] for address in found]


def _drop(table: str, incoming: str | None, outgoing: str | None) -> None:
    """Drop the packets that these match, until *table* is deleted."""
    rules = [
        f"chain {hook} {{ type filter hook {hook} priority 0; {match} drop; }}"
        for hook, match in (("input", incoming), ("output", outgoing))
        if match is not None
    ]
    _run("nft", "-f", "-", text="\n".join([f"table inet {table} {{", *rules, "}"]))


async def _patiently(api: Client, command: str, params: dict[str, Any]) -> dict[str, Any]:
    ends = time.monotonic() + 120
    while True:
        try:
            return await api(command, **params)
        except (FastdlError, OSError):
            if time.monotonic() > ends:
                raise
        await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def rig(
    folder: Path,
    *,
    agents: int,
    apart: bool,
    with_nats: bool = False,
    hosts_on_nats: bool = False,
    callout: bool = False,
    load: Load = FEW,
) -> AsyncIterator[Rig]:
    """A started rig. *apart*: each agent has a namespace of its own (needs root); *with_nats* and
    *hosts_on_nats*: three NATS servers between managers, and to hosts; *callout*: these ask
    managers who connects."""
    with contextlib.ExitStack() as stack:
        nets = stack.enter_context(spaces(agents)) if apart else []
        address = BRIDGE if apart else "127.0.0.1"
        origins = [
            stack.enter_context(
                CountingOrigin(name=address, listener=socket.create_server((address, 0)))
            )
            for _ in range(ORIGINS)
        ]
        nats = {"with_nats": with_nats, "hosts_on_nats": hosts_on_nats, "callout": callout}
        async with cluster(folder, address=address, **nats) as made:
            hosts = [
                AgentProcess(folder, f"kvm{number}", made.managers[0]) for number in range(agents)
            ]
            for number, host in enumerate(hosts):
                host.program = (*(nets[number].prefix if apart else ()), *FASTDL)
                # Half of them know every manager, the others the balancer.
                each = [made.managers[(number + k) % 3].agents for k in range(3)]
                host.through = (made.agents,) if number % 2 else tuple(each)
            found = Rig(folder, made, origins, hosts, nets, load)
            try:
                await found.start()
                yield found
            finally:
                for host in hosts:
                    if host.alive:
                        await host.end(signal.SIGKILL)
                shutil.rmtree(folder / "shared", ignore_errors=True)
