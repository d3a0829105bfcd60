# SPDX-License-Identifier: Apache-2.0
"""Hostile and greedy callers: are they refused, cheaply, and is everybody else served?

The manager is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastdl.errors import ApiAuthError, ApiConflictError, ApiLimitError, FastdlError
from fastdl.lab.certs import self_signed
from fastdl.manager.access.auth import sign
from fastdl.manager.api import request
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Kind
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone
from tests.env.mortal_manager import MortalManager

UPLOAD = "uploadTemplateDirectDownloadCertificate"
NOWHERE = "00000000-0000-4000-8000-000000000000"
MEMORY_MAX = 48 << 20
"""What hostile requests may add to the manager's peak of resident memory."""
IDLE = 5000


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[MortalManager]:
    """A manager's process with a zone."""
    made = MortalManager(tmp_path)
    await made.start()
    try:
        await made.api("createZone", name="z1")
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager in this process with a host."""
    async with running_zone(tmp_path / "manager") as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


async def user(api: Client, name: str, account: str | None = None) -> Client:
    """A client of a new user without special rights."""
    params = {"username": name, "password": "password1", "account": account or name}
    id_ = (await api("createUser", **params))["user"]["id"]
    keys = (await api("registerUserKeys", id=id_))["userkeys"]
    return Client({**api.credentials, **keys})


def reset_peak(manager: MortalManager) -> int:
    """Let the manager's peak of resident memory start at what is resident now; return that."""
    Path(f"/proc/{manager.pid}/clear_refs").write_text("5")
    return peak(manager)


def peak(manager: MortalManager) -> int:
    """The manager's peak of resident memory in bytes."""
    for line in Path(f"/proc/{manager.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def form(api: Client, command: str, **params: str) -> bytes:
    """A signed form."""
    full = {"command": command, "response": "json", "apiKey": api.credentials["apikey"], **params}
    full["signature"] = sign(full, api.credentials["secretkey"])
    return urllib.parse.urlencode(full).encode()


def upload(certificates: str) -> dict[str, str]:
    """The parameters of an upload into no particular zone."""
    return {"name": "m", "hypervisor": "KVM", "zoneid": NOWHERE, "certificate": certificates}


async def post(api: Client, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Send *body*; return (status, what is in the envelope)."""
    kind = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.credentials['url']}?response=json", data=body, headers=kind) as answer,
    ):
        return answer.status, next(iter((await answer.json()).values()))


async def raw(api: Client, *chunks: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which *chunks* were sent."""
    url = urllib.parse.urlsplit(api.credentials["url"])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.writelines(chunks)
    await writer.drain()
    return reader, writer


async def test_huge_requests_are_refused_at_little_cost(manager: MortalManager) -> None:
    """Ten megabytes, ten thousand certificates, a bomb: one class, no memory (A04, T12)."""
    before, pem = reset_peak(manager), self_signed()
    ten = upload(pem * 10)
    bodies = {
        "ten megabytes": form(manager.api, UPLOAD, **upload("A" * (10 << 20))),
        "10,000 certificates": form(manager.api, UPLOAD, **upload(pem * 10_000)),
        "65,536 characters": form(manager.api, UPLOAD, **upload("A" * 65_536)),
        "257 parameters": form(manager.api, "listZones", **{f"p{n}": "" for n in range(257)}),
        "17 headers": form(
            manager.api, "registerTemplate", name="t", url="https://m.example/t.qcow2",
            format="QCOW2", hypervisor="KVM", directdownload="true",
            **{f"details[0].HTTP_HEADER:X-{n}": "v" for n in range(17)},
        ),
        "a long url": form(
            manager.api, "registerTemplate", name="t", url="https://m.example/" + "t" * 2048,
            format="QCOW2", hypervisor="KVM", directdownload="true",
        ),
    }  # fmt: skip
    for what, body in bodies.items():
        status, answer = await post(manager.api, body)
        assert (status, answer["errorcode"]) == (431, 431), what
    zone_id = (await manager.api("listZones"))["zone"][0]["id"]
    status, _ = await post(manager.api, form(manager.api, UPLOAD, **{**ten, "zoneid": zone_id}))
    assert status == 200
    bomb = gzip.compress(bytes(64 << 20))
    status, _ = await post(manager.api, bomb, **{"Content-Encoding": "gzip"})
    assert status == 431
    grown = peak(manager) - before
    print(f"the manager's peak grew by {grown >> 10} KiB")
    assert grown < MEMORY_MAX


async def test_an_endless_body_is_not_read_to_its_end(manager: MortalManager) -> None:
    """Chunk after chunk: the answer comes before the end that never comes (A04)."""
    before = reset_peak(manager)
    head = (
        b"POST /client/api?response=json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    reader, writer = await raw(manager.api, head)
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"

    async def pour() -> None:
        for _ in range(1024):
            writer.write(chunk)
            await writer.drain()

    pouring = asyncio.create_task(pour())
    async with asyncio.timeout(30):
        assert b" 431 " in await reader.readline()
    assert (await manager.api("listZones"))["count"] == 1
    pouring.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await pouring
    writer.close()
    assert peak(manager) - before < MEMORY_MAX


async def test_a_slow_body_is_given_up(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then ends with the limit on time, and others do not wait for it (A04)."""
    monkeypatch.setattr(request, "BODY_S", 0.5)
    head = (
        b"POST /client/api?response=json HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\ncommand="
    )
    slow = [await raw(zone.api, head) for _ in range(20)]
    assert (await zone.api("listZones"))["count"] == 1
    async with asyncio.timeout(30):
        for reader, _ in slow:
            assert b" 429 " in await reader.readline()
    for _, writer in slow:
        writer.close()


async def test_a_flood_and_idle_connections_are_not_the_others_problem(
    manager: MortalManager,
) -> None:
    """One key floods and thousands of connections say nothing: the other key is served (A09)."""
    await manager.api("updateConfiguration", name="api.requests.per.second", value="50")
    greedy, calm = await user(manager.api, "greedy"), await user(manager.api, "calm")
    alone = await timed(calm, 40)
    most = min(IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    idle = [await raw(manager.api) for _ in range(most)]
    answers: Counter[int] = Counter()
    flooding = [asyncio.create_task(flood(greedy, answers)) for _ in range(10)]
    async with asyncio.timeout(30):
        while not answers[429]:
            await asyncio.sleep(0.01)
    crowded = await timed(calm, 40)
    for task in flooding:
        task.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    print(
        f"{most} idle connections, {answers.total()} requests of the flood: p50 and p99 of the "
        f"other key were {middle(alone)}, then {middle(crowded)} ms"
    )
    for _, writer in idle:
        writer.close()
    assert answers[429] > 0
    assert set(answers) <= {200, 429}


async def flood(client: Client, answers: Counter[int]) -> None:
    """One request after another, without a pause, until cancelled."""
    body = form(client, "listZones")
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.post(client.credentials["url"], data=body, headers=kind) as answer:
                await answer.read()
                answers[answer.status] += 1


async def timed(client: Client, count: int) -> list[float]:
    """Milliseconds that each of *count* requests took; any refusal is an error."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        assert (await client("listZones"))["count"] == 1
        found.append(1000 * (time.perf_counter() - started))
    return sorted(found)


def middle(found: list[float]) -> str:
    """The median and the worst but for one in a hundred, for people."""
    return f"{found[len(found) // 2]:.0f}/{found[min(len(found) - 1, len(found) * 99 // 100)]:.0f}"


async def test_throttling_counts_an_account_as_cloudstack_does(zone: Zone) -> None:
    """Off at first; then so many an interval for all keys of an account, but administrators."""
    one, two = await user(zone.api, "one", "shared"), await user(zone.api, "two", "shared")
    other = await user(zone.api, "other")
    for _ in range(4):
        await one("listZones")
    for name, value in (("interval", "3600"), ("max", "3"), ("enabled", "true")):
        await zone.api("updateConfiguration", name=f"api.throttling.{name}", value=value)
    for client in (one, two, one):
        await client("listZones")
    for client in (one, two):
        with pytest.raises(ApiLimitError, match=r"account api limit, please retry after \d+ ms"):
            await client("listZones")
    await other("listZones")
    for _ in range(5):
        await zone.api("listZones")


async def test_an_accounts_quota_holds_against_a_race(tmp_path: Path, database: str | None) -> None:
    """Twelve registrations at once, three places: three templates, in CloudStack's words (T12)."""
    async with running_zone(tmp_path / "manager", database=database) as zone:
        await zone.agent("kvm1", pools=(local_pool("p1"),))
        await race_for_three_places(zone)


async def race_for_three_places(zone: Zone) -> None:
    """Two users of one account register at once; then one place is given back."""
    await zone.api("updateConfiguration", name="max.account.templates", value="3")
    one, two = await user(zone.api, "one", "shared"), await user(zone.api, "two", "shared")

    def register(client: Client, n: int) -> Any:
        params = {
            "name": f"t{n}",
            "zoneid": zone.id,
            "directdownload": "true",
            "url": f"https://mirror.example/t{n}." + ("iso" if n % 3 == 0 else "qcow2"),
        }
        if n % 3 == 0:
            return client("registerIso", **params)
        return client("registerTemplate", format="QCOW2", hypervisor="KVM", **params)

    ends = await asyncio.gather(
        *(register((one, two)[n % 2], n) for n in range(12)), return_exceptions=True
    )
    made = [end for end in ends if isinstance(end, dict)]
    refused = [end for end in ends if isinstance(end, ApiConflictError)]
    assert (len(made), len(refused)) == (3, 9), ends
    assert (
        "Maximum amount of resources of Type = 'template' for Account Name = shared is exceeded: "
        "Account Resource Limit = 3, Current Account Resource Amount = 3"
    ) in refused[0].message
    body = form(
        one,
        "registerIso",
        name="x",
        url="https://m.example/x.iso",
        zoneid=zone.id,
        directdownload="true",
    )
    status, answer = await post(one, body)
    assert (status, answer["errorcode"], answer["cserrorcode"]) == (535, 535, 4370)
    item = next(item for end in made for item in (end.get("template") or end["iso"]))
    verb = "deleteIso" if item["format"] == "ISO" else "deleteTemplate"
    await zone.api(verb, id=item["id"])
    assert await register(two, 1)
    for n in range(20, 24):
        await register(zone.api, n)


class Prober:
    """How many probes a host is busy with, at most and in all; each ends when told."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0
        self.go = asyncio.Event()

    async def __call__(self, _agent: FakeAgent, _command: m.Command) -> m.Done | m.Failure:
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        return m.ProbeDone(
            size=1 << 20,
            virtual_size=1 << 30,
            format="qcow2",
            ranges=True,
            validators=m.Validators(size=1 << 20),
        )


async def register(client: Client, zone: Zone, name: str) -> dict[str, Any]:
    """A registration by *client*."""
    return await client(
        "registerTemplate",
        name=name,
        url=f"https://m.example/{name}.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        zoneid=zone.id,
        directdownload="true",
    )


async def test_an_account_without_room_sets_no_host_to_work(zone: Zone) -> None:
    """The quota is looked at before a process starts on a hypervisor."""
    (agent,) = zone.agents
    agent.work["probe"] = prober = Prober()
    await zone.api("updateConfiguration", name="max.account.templates", value="0")
    tenant = await user(zone.api, "tenant", "tenant")
    for n in range(20):
        with pytest.raises(ApiConflictError, match="Maximum amount of resources"):
            await register(tenant, zone, f"t{n}")
    assert prober.all == 0


async def test_probes_take_places_by_account_and_by_host(zone: Zone) -> None:
    """A tenant who registers much waits for himself; another one is served meanwhile."""
    (agent,) = zone.agents
    agent.work["probe"] = prober = Prober()
    await zone.api("updateConfiguration", name="direct.download.account.max.probes", value="2")
    await zone.api("updateConfiguration", name="direct.download.host.max.probes", value="3")
    greedy, other = await user(zone.api, "a", "a"), await user(zone.api, "b", "b")
    many = [asyncio.create_task(register(greedy, zone, f"a{n}")) for n in range(4)]
    few = [asyncio.create_task(register(other, zone, f"b{n}")) for n in range(2)]
    async with asyncio.timeout(20):
        while prober.all < 3:
            await asyncio.sleep(0.01)
    assert prober.now == 3  # two of the first account, one of the second: all that a host takes
    prober.go.set()
    await asyncio.gather(*many, *few)
    assert prober.most <= 3
    assert prober.all == 6


async def test_a_host_that_reaches_the_origin_is_found(zone: Zone) -> None:
    """One of the zone's hosts has no way to the origin: which one is asked first is no matter."""

    async def unreachable(_agent: FakeAgent, _command: m.Command) -> m.Done | m.Failure:
        return m.Failure(code=10, message="no route")

    zone.agents[0].work["probe"] = unreachable
    with pytest.raises(FastdlError, match="on host kvm1: no route"):
        await zone.template("t0")
    await zone.agent("kvm2", pools=(local_pool("p2"),))
    for n in range(1, 7):
        assert await zone.template(f"t{n}")


async def test_what_administers_does_not_exist_for_users(zone: Zone) -> None:
    """Certificates, zones, hosts, settings, users: not even whether the command exists (T12)."""
    client = await user(zone.api, "u")
    with pytest.raises(ApiAuthError) as unknown:
        await client.send("noSuchCommand", {})
    names = [command.name for command in COMMANDS.values() if command.admin]
    assert len([name for name in names if "DirectDownloadCertificate" in name]) == 6
    for name in names:
        with pytest.raises(ApiAuthError) as refused:
            await client.send(name, {"id": NOWHERE, "zoneid": zone.id, "name": "m"})
        assert refused.value.message == unknown.value.message, name


async def test_anothers_object_is_as_no_object(zone: Zone) -> None:
    """Whatever takes an id answers the same for another account's as for none (T12, A06)."""
    template = (await zone.template("hidden"))["id"]
    job = await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)
    await zone.api.job(job)
    me = (await zone.api("listUsers", username="admin"))["user"][0]["id"]
    client = await user(zone.api, "u")
    theirs = {
        "jobid": job["jobid"],
        "userapikey": zone.api.credentials["apikey"],
        "templateid": template,
        "resourceid": template,
    }
    filler = {"zoneid": zone.id, "templatefilter": "executable", "isofilter": "executable"}
    checked = []
    for command in COMMANDS.values():
        ids = me if "User" in command.name else template
        hidden = {
            param: theirs.get(param, ids)
            for param in ("id", "ids", "templateid", "jobid", "userapikey", "resourceid")
            if param in command.by_name
        }
        base = {param: value for param, value in filler.items() if param in command.by_name}
        required = {p.name for p in command.params if p.required and p.kind is Kind.UUID}
        assert command.admin or required <= base.keys() | hidden.keys(), command.name
        if hidden and not command.admin:
            nothing = dict.fromkeys(hidden, NOWHERE)
            seen = await outcome(client, command.name, base | hidden)
            assert seen == await outcome(client, command.name, base | nothing), command.name
            checked.append(command.name)
    assert {"deleteTemplate", "cancelTemplateDownload", "queryAsyncJobResult"} <= set(checked)


async def test_users_see_no_hosts_and_paths_of_a_public_templates_downloads(zone: Zone) -> None:
    """How far a download is concerns whoever may deploy it; what it runs on does not (T12)."""

    async def fail(_agent: FakeAgent, _command: m.Command) -> m.Failure:
        return m.Failure(code=11, message="https://secret.example/t.qcow2 answered 404")

    shown = (await zone.template("shown", ispublic="true"))["id"]
    await zone.api.job(await zone.api("prepareTemplate", templateid=shown, zoneid=zone.id))
    zone.agents[0].work["download"] = fail
    mirror = (await zone.template("broken", ispublic="true"))["id"]
    await zone.api.job(await zone.api("prepareTemplate", templateid=mirror, zoneid=zone.id))
    client = await user(zone.api, "u")
    (done,) = (await zone.api("listTemplateDownloads", templateid=shown))["templatedownload"]
    assert {"hostid", "installpath"} <= done.keys()
    (done,) = (await client("listTemplateDownloads", templateid=shown))["templatedownload"]
    assert (done["state"], done["percent"]) == ("DONE", 100)
    assert not {"hostid", "installpath"} & done.keys()
    (failed,) = (await zone.api("listTemplateDownloads", templateid=mirror))["templatedownload"]
    assert "secret.example" in failed["error"]
    (failed,) = (await client("listTemplateDownloads", templateid=mirror))["templatedownload"]
    assert failed["state"] == "FAILED"
    assert "secret.example" not in json.dumps(failed)


async def outcome(client: Client, command: str, params: dict[str, str]) -> str:
    """An answer or an error, without the ids that were sent, as text."""
    try:
        text = json.dumps(await client.send(command, params))
    except FastdlError as exc:
        text = f"{type(exc).__name__}: {exc.message}"
    for value in params.values():
        text = text.replace(value, "…")
    return text


async def test_a_session_changes_nothing_without_its_key(zone: Zone) -> None:
    """A link in a page must not be able to change anything (T12); cmk, which has the key, sends
    GET."""
    url = zone.api.credentials["url"]
    await zone.api("createUser", username="root", password="password1", role="Admin")
    login = {"command": "login", "username": "root", "response": "json", "password": "password1"}
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        async with session.post(url, data=login) as answer:
            key = (await answer.json())["loginresponse"]["sessionkey"]
        change = {"command": "createZone", "name": "z2", "response": "json", "sessionkey": key}
        for method in ("GET", "POST"):
            for wrong in ({"sessionkey": "guess"}, {"sessionkey": ""}):
                async with session.request(method, url, params={**change, **wrong}) as answer:
                    assert answer.status == 401
            site = {"Sec-Fetch-Site": "cross-site"}
            async with session.request(method, url, params=change, headers=site) as answer:
                assert answer.status == 401
        async with session.head(url, params=change) as answer:
            assert answer.status == 405
        for n, method in enumerate(("GET", "POST")):
            named = {**change, "name": f"by{n}"}
            async with session.request(method, url, params=named) as answer:
                assert answer.status == 200
    assert (await zone.api("listZones"))["count"] == 3


async def test_a_request_refused_for_a_passing_reason_may_be_sent_again(zone: Zone) -> None:
    """Only what took effect is refused as a copy; the same bytes again are not punished (A08)."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(time.time() + 300))
    body = form(
        zone.api,
        "registerTemplate",
        name="t",
        url="https://m.example/t.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        directdownload="true",
        zoneid=zone.id,
        signatureVersion="3",
        expires=stamp,
    )
    await zone.agents[0].close()
    status, answer = await post(zone.api, body)
    assert (status, "Couldn't find a host" in answer["errortext"]) == (530, True)
    await zone.agents[0].connect()
    assert (await post(zone.api, body))[0] == 200
    status, answer = await post(zone.api, body)
    assert (status, "carried out before" in answer["errortext"]) == (409, True)
    assert (await zone.api("listTemplates", templatefilter="self"))["count"] == 1
