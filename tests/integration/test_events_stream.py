# SPDX-License-Identifier: Apache-2.0
"""Does a stream of events show its user what is the user's, until the session ends?"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastdl.errors import ApiParamError
from fastdl.manager.access import sessions
from fastdl.web import events
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone
from tests.env.web import encoded, send


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a host."""
    async with running_zone(tmp_path / "manager") as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        await made.api("updateConfiguration", name="allow.user.prepare.template", value="true")
        yield made


@dataclass
class Page:
    """A browser that is logged in, and what its stream brought."""

    zone: Zone
    session: aiohttp.ClientSession
    key: str
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return self.zone.api.credentials["url"].replace("/client/api", "/events")

    async def read(self) -> None:
        """Collect events until the stream ends."""
        async with self.session.get(self.url, params={"sessionkey": self.key}) as answer:
            assert answer.status == 200, answer.status
            self.seen.append(("open", {}))
            topic = ""
            async for line in answer.content:
                text = line.decode().strip()
                if text.startswith("event: "):
                    topic = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    self.seen.append((topic, json.loads(text.removeprefix("data: "))))
        self.ended.set()

    async def until(self, topic: str, **fields: str) -> dict[str, Any]:
        """Wait for an event that has *fields*."""
        async with asyncio.timeout(20):
            while True:
                for name, data in self.seen:
                    if name == topic and fields.items() <= data.items():
                        return data
                await asyncio.sleep(0.02)

    async def call(self, command: str, **params: str) -> int:
        """Send a command in this session; return the status."""
        text = {"command": command, "response": "json", "sessionkey": self.key, **params}
        url = self.zone.api.credentials["url"]
        return (await send(url, form=encoded(text.items()), session=self.session)).status


@contextlib.asynccontextmanager
async def page(zone: Zone, name: str, *, watch: bool = True) -> AsyncIterator[Page]:
    """Log *name* in and open the stream."""
    connector = aiohttp.TCPConnector(limit=0)
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as session:
        login = {
            "command": "login",
            "username": name,
            "password": "password1",
            "response": "json",
        }
        url = zone.api.credentials["url"]
        answer = await send(url, form=encoded(login.items()), session=session)
        made = Page(zone, session, answer.content["sessionkey"])
        if not watch:
            yield made
            return
        task = asyncio.create_task(made.read())
        try:
            await made.until("open")
            yield made
            if not task.done():
                task.cancel()
        finally:
            with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
                await task


async def user(
    zone: Zone, name: str, account: str | None = None, **more: str
) -> tuple[str, Client]:
    """A user: (id, client)."""
    params = {"username": name, "password": "password1", "account": account or name, **more}
    id_ = (await zone.api("createUser", **params))["user"]["id"]
    keys = (await zone.api("registerUserKeys", id=id_))["userkeys"]
    return id_, Client({**zone.api.credentials, **keys})


async def test_a_stream_shows_what_list_events_shows(zone: Zone) -> None:
    """Another account's events, hosts and downloads are not a tenant's business (T12)."""
    _, one = await user(zone, "one")
    _, two = await user(zone, "two")
    await user(zone, "root", role="Admin")
    async with page(zone, "one") as mine, page(zone, "root") as all_:
        await zone.api("createZone", name="secretzone")
        theirs = (await register(zone, two, "theirs"))["id"]
        await two.job(await two("prepareTemplate", templateid=theirs, zoneid=zone.id))
        await zone.agents[0].close()
        await zone.agents[0].connect()
        own = (await register(zone, one, "own"))["id"]
        await one.job(await one("prepareTemplate", templateid=own, zoneid=zone.id))
        await mine.until("download", template=own, state="DONE")
        await all_.until("event", description="zone secretzone created")
        await all_.until("download", template=theirs, state="DONE")
        await all_.until("host", host=zone.agents[0].host_id)
        text = json.dumps(mine.seen)
    assert "own registered" in text
    for foreign in ("secretzone", theirs, "theirs", zone.agents[0].host_id, "proxy"):
        assert foreign not in text
    listed = {e["description"] for e in (await one("listEvents")).get("event", [])}
    shown = {data["description"] for topic, data in mine.seen if topic == "event"}
    assert shown <= listed


async def register(zone: Zone, client: Client, name: str) -> dict[str, Any]:
    """A template of *client*'s."""
    answer = await client(
        "registerTemplate",
        name=name,
        url=f"https://mirror.example/{name}.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        zoneid=zone.id,
        directdownload="true",
    )
    found: dict[str, Any] = answer["template"][0]
    return found


async def test_what_mirrors_do_is_for_administrators(zone: Zone) -> None:
    """As in the list of downloads: a mirror may stand on a network that tenants do not see."""
    go_on = asyncio.Event()

    async def reporting(agent: FakeAgent, command: m.Command) -> m.Done:
        mirror = m.MirrorReport(url="https://inner.example/x", bytes=3, requests=1)
        await agent.say(
            m.Progress(
                job=command.job,
                fence=command.fence,
                done=3,
                total=9,
                rate=1.0,
                stage="fetch",
                bottleneck="write",
                mirrors=(mirror,),
            )
        )
        await go_on.wait()
        assert isinstance(command.args, m.DownloadArgs)
        return m.DownloadDone(install_path=command.args.volume, virtual_size=9)

    zone.agents[0].work["download"] = reporting
    _, one = await user(zone, "one")
    await user(zone, "root", role="Admin")
    async with page(zone, "one") as mine, page(zone, "root") as all_:
        own = (await register(zone, one, "own"))["id"]
        job = await one("prepareTemplate", templateid=own, zoneid=zone.id)
        told = await all_.until("progress", bottleneck="write")
        assert told["mirrors"][0]["url"] == "https://inner.example/x"
        assert "mirrors" not in await mine.until("progress", bottleneck="write")
        (row,) = (await zone.api("listTemplateDownloads"))["templatedownload"]
        assert (row["bottleneck"], row["mirrors"]) == ("write", told["mirrors"])
        (row,) = (await one("listTemplateDownloads"))["templatedownload"]
        assert "mirrors" not in row
        go_on.set()
        await one.job(job)
        assert "inner.example" not in json.dumps(mine.seen)


async def test_a_stream_ends_with_its_session(zone: Zone) -> None:
    """Logout, disabled, deleted, other keys: who may not ask any more is told nothing more."""
    for how in ("logout", "disableUser", "deleteUser", "registerUserKeys", "password"):
        id_, client = await user(zone, how)
        async with page(zone, how) as watching:
            match how:
                case "logout":
                    assert await watching.call("logout") == 200
                case "password":
                    await zone.api("updateUser", id=id_, password="password2")
                case _:
                    await zone.api(how, id=id_)
            await asyncio.wait_for(watching.ended.wait(), 5)
            told = len(watching.seen)
            if how in {"logout", "password"}:
                await register(zone, client, f"after-{how}")
            assert len(watching.seen) == told
            assert await watching.call("listZones") == 401


async def test_a_stream_ends_when_the_session_expires(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is left open keeps nobody logged in."""
    monkeypatch.setattr(sessions, "IDLE_S", 1.0)
    await user(zone, "idle")
    async with page(zone, "idle", watch=False) as watching:
        await asyncio.wait_for(watching.read(), 10)
        assert await watching.call("listZones") == 401


async def test_streams_are_bounded_for_each_user(zone: Zone) -> None:
    """One user's pages take no place of another's; who closes one may open one."""
    await user(zone, "many")
    await user(zone, "other")
    async with page(zone, "many", watch=False) as many, page(zone, "other", watch=False) as other:
        query = {"sessionkey": many.key}
        streams = [await many.session.get(many.url, params=query) for _ in range(40)]
        codes = [stream.status for stream in streams]
        assert codes.count(200) == events.PER_USER_MAX
        assert codes.count(429) == 40 - events.PER_USER_MAX
        answer = await other.session.get(other.url, params={"sessionkey": other.key})
        assert answer.status == 200
        answer.close()
        next(stream for stream in streams if stream.status == 200).close()
        async with asyncio.timeout(10):
            while (again := await many.session.get(many.url, params=query)).status != 200:
                await asyncio.sleep(0.05)
        again.close()
        for stream in streams:
            stream.close()


async def test_nobody_gets_the_managers_own_account(zone: Zone) -> None:
    """Its events are those of every host and tenant."""
    for params in ({"username": "system"}, {"username": "u", "account": "system"}):
        with pytest.raises(ApiParamError, match="manager's own"):
            await zone.api("createUser", password="password1", **params)


async def test_a_manager_that_stops_does_not_wait_for_pages(tmp_path: Path) -> None:
    """A stream never ends by itself."""
    async with running_zone(tmp_path / "manager") as zone:
        await user(zone, "u")
        async with page(zone, "u") as watching:
            await asyncio.wait_for(zone.manager.stop(), 10)
            await asyncio.wait_for(watching.ended.wait(), 5)


async def test_nobody_watches_without_a_session(zone: Zone) -> None:
    """The cookie alone, the key alone, a signature: 401."""
    await user(zone, "u")
    async with page(zone, "u", watch=False) as made:
        assert (await made.session.get(made.url)).status == 401
        assert (await made.session.get(made.url, params={"sessionkey": "x"})).status == 401
    assert (await send(made.url, query=f"sessionkey={made.key}")).status == 401
    assert (await send(made.url, query=f"apiKey={zone.api.credentials['apikey']}")).status == 401
