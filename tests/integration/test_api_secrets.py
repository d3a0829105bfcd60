# SPDX-License-Identifier: Apache-2.0
"""Do settings keep their secrets, refuse what would become another header, and take a while to
guess? And are health and metrics true, bounded and closed where somebody asks for it?"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from fastdl.errors import ApiParamError, UsageError
from fastdl.manager import metrics
from fastdl.manager.app import running
from fastdl.manager.config import ManagerConfig
from fastdl.manager.ledger import tables
from fastdl.web.routes import add_routes
from fastdl.wire import messages as m
from tests.env.fake_agent import DEFAULTS, FakeAgent, local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.web import Answer, free_port, send

PASSWORD = "s3cr3t-of-the-proxy"
PROXY = f"http://proxyuser:{PASSWORD}@proxy.example:3128"
TOKEN = "t0ken-of-the-scraper"


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a host."""
    async with running_zone(tmp_path / "manager") as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


async def get(zone: Zone, path: str, **headers: str) -> Answer:
    """Ask the API port for *path*."""
    base = zone.api.credentials["url"].removesuffix("/client/api")
    return await send(f"{base}{path}", headers=headers)


async def setting(zone: Zone, name: str, value: str) -> dict[str, Any]:
    """Change a setting."""
    answer = await zone.api("updateConfiguration", name=name, value=value)
    found: dict[str, Any] = answer["configuration"]
    return found


async def test_a_secret_is_in_no_place_but_the_hosts_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, database: str | None
) -> None:
    """Not in the ledger, its files, its jobs, the events, the answers, the metrics, the log."""
    caplog.set_level(logging.DEBUG)
    state = tmp_path / "manager"
    seen: list[str | None] = []

    async def download(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        assert isinstance(command.args, m.DownloadArgs)
        seen.append(command.args.transfer.proxy)
        return await DEFAULTS["download"](agent, command)

    async with running_zone(state, database=database) as zone:
        await zone.agent("kvm1", pools=(local_pool("p1"),), work={"download": download})
        told = [
            await setting(zone, "direct.download.proxy", PROXY),
            await setting(zone, "metrics.token", TOKEN),
        ]
        assert told[0]["value"] == "http://********@proxy.example:3128"
        template = (await zone.template())["id"]
        await zone.api.job(await zone.api("prepareTemplate", templateid=template, zoneid=zone.id))
        told += [await zone.api(c) for c in ("listConfigurations", "listEvents", "listAsyncJobs")]
        for name, bad in (
            ("direct.download.proxy", f"ftp://u:{PASSWORD}@h"),
            ("direct.download.proxy", f"http://u:{PASSWORD}@h:1\r\nX: y"),
            ("direct.download.proxy", f"http://u:{PASSWORD}@h/" + "x" * 3000),
            ("direct.download.proxy", told[0]["value"]),
            ("metrics.token", "short"),
            ("metrics.token", TOKEN + "\x7f"),
        ):
            with pytest.raises(ApiParamError) as refused:
                await setting(zone, name, bad)
            told.append({"text": refused.value.message})
        answer = await get(zone, "/metrics", Authorization=f"Bearer {TOKEN}")
        told.append({"text": answer.body})
        async with zone.manager.context.ledger.read() as tx:
            rows = [(await tx.execute(select(t))).all() for t in tables.metadata.sorted_tables]
        told.append({"text": repr(rows)})
        files = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
        mode = (state / "secret.key").stat().st_mode & 0o777
    assert seen == [PROXY]
    assert mode == 0o600
    text = json.dumps(told) + caplog.text + "".join(str(vars(r)) for r in caplog.records)
    for secret in (PASSWORD, TOKEN, "proxyuser"):
        assert secret not in text
        assert [p for p, data in files.items() if secret.encode() in data] == []
    async with running_zone(state, database=database) as zone:
        assert zone.manager.context.settings.text("direct.download.proxy") == PROXY
        assert (await get(zone, "/metrics", Authorization=f"Bearer {TOKEN}")).status == 200
        assert (await setting(zone, "direct.download.proxy", ""))["value"] == ""
    (state / "secret.key").write_text("00" * 32)
    with pytest.raises(UsageError, match="restore that file from the backup"):
        async with running_zone(state, database=database):
            pass
    async with running_zone(state, database=database, accept_new_ca=True) as zone:
        assert zone.manager.context.settings.text("metrics.token") == ""
    assert "restore that file or set it again" in "".join(str(vars(r)) for r in caplog.records)


async def test_nothing_in_a_setting_starts_another_header(zone: Zone) -> None:
    """What becomes a header, here or on a host, has no end of line in it."""
    for name, value in (
        ("json.content.type", "application/json\r\nX-Evil: 1"),
        ("json.content.type", "text/html"),
        ("direct.download.proxy", "http://p.example:1\r\nX-Evil: 1"),
        ("proxy.header.names", "X-Forwarded-For\nX"),
    ):
        with pytest.raises(ApiParamError):
            await setting(zone, name, value)
    await setting(zone, "json.content.type", "text/javascript; charset=UTF-8")
    answer = await get(zone, "/client/api?response=json&command=listZones")
    assert answer.headers["Content-Type"] == "text/javascript; charset=UTF-8"


async def test_a_stored_setting_that_cannot_be_used_counts_as_its_default(tmp_path: Path) -> None:
    """An older version may have stored what is refused now; the start must not fail on it."""
    async with running_zone(tmp_path / "manager") as zone:

        async def work(tx: Any) -> None:
            for name, value in (
                ("json.content.type", "a/b\r\nX: y"),
                ("proxy.cidr", "nonsense"),
                ("metrics.token", TOKEN),
            ):
                await tx.execute(tables.setting.insert().values(name=name, value=value))

        await zone.manager.context.ledger.write(work)
    async with running_zone(tmp_path / "manager") as zone:
        answer = await get(zone, "/client/api?response=json&command=listZones")
        assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
        assert "X" not in answer.headers
        assert (await get(zone, "/metrics", Authorization=f"Bearer {TOKEN}")).status == 200
        async with zone.manager.context.ledger.read() as tx:
            assert TOKEN not in repr((await tx.execute(select(tables.setting))).all())


async def test_metrics_are_bounded_whatever_a_host_says(zone: Zone) -> None:
    """Labels of a host's making are memory; numbers of its making must not spoil the sums."""
    number = 0

    async def boast(agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        nonlocal number
        number += 1
        done = await DEFAULTS["download"](agent, command)
        assert isinstance(done, m.DownloadDone)
        mirrors = tuple(
            m.MirrorReport(url=f"https://{number}-{n}.example:{n + 1}/" + "x" * 3000, bytes=1 << 62)
            for n in range(64)
        )
        return replace(done, mirrors=mirrors, seconds=-1e15 if number % 2 else 1e15)

    zone.agents[0].work["download"] = boast
    for n in range(10):
        template = (await zone.template(f"t{n}"))["id"]
        job = await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)
        assert (await zone.api.job(job))["jobstatus"] == 1
    answer = await get(zone, "/metrics")
    lines = [line for line in answer.body.splitlines() if "fastdl_origin_bytes_total{" in line]
    assert len(lines) == metrics.ORIGINS_MAX
    assert len(answer.body) < 200_000
    assert max(map(len, answer.body.splitlines())) < 500
    assert "nan" not in answer.body.lower()
    assert not any(
        line.rpartition(" ")[2].startswith("-")
        for line in answer.body.splitlines()
        if line.startswith("fastdl_download_seconds")
    )


async def test_metrics_ask_for_credentials_where_there_are_some(zone: Zone) -> None:
    """A bearer token, or the password of basic authentication: what Prometheus can send."""
    assert (await get(zone, "/metrics")).status == 200
    await setting(zone, "metrics.token", TOKEN)

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    for good in (f"Bearer {TOKEN}", f"bearer {TOKEN}", basic(f"any:{TOKEN}"), basic(f":{TOKEN}")):
        assert (await get(zone, "/metrics", Authorization=good)).status == 200
    for bad in (
        "",
        "Bearer",
        "Bearer x",
        f"Bearer {TOKEN}x",
        TOKEN,
        "Basic !!!",
        basic("x"),
        basic(f"{TOKEN}:"),
        "Basic /w==",
        f"Digest {TOKEN}",
    ):
        answer = await get(zone, "/metrics", **({"Authorization": bad} if bad else {}))
        assert answer.status == 401, bad
        assert "fastdl_" not in answer.body
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert (await get(zone, "/healthz")).status == 200
    wrong = await asyncio.gather(
        *(get(zone, "/metrics", Authorization=f"Bearer {n}") for n in range(100))
    )
    assert {answer.status for answer in wrong} == {401, 429}
    assert (await get(zone, "/metrics", Authorization=f"Bearer {TOKEN}")).status == 200


async def test_health_says_ready_once_the_credentials_are_there(tmp_path: Path) -> None:
    """Who waits for it finds admin.json; that the process lives is another question."""
    state, port = tmp_path / "manager", free_port()
    base = f"http://127.0.0.1:{port}"
    seen: list[tuple[bool, int, int]] = []

    async def look() -> None:
        while not seen or seen[-1][1] != 200:
            await asyncio.sleep(0)
            with contextlib.suppress(aiohttp.ClientConnectionError):
                health = (await send(f"{base}/healthz")).status
                there = (state / "admin.json").exists()
                seen.append((there, health, (await send(f"{base}/livez")).status))

    looking = asyncio.create_task(look())
    config = ManagerConfig(
        state=state, listen=f"127.0.0.1:{port}", agent_listen="127.0.0.1:0", log_level="error"
    )
    async with running(config, add_routes=add_routes) as manager:
        await asyncio.wait_for(looking, 30)
        for path in ("/healthz", "/readyz", "/livez"):
            answer = await send(f"{base}{path}")
            assert (answer.status, json.loads(answer.body)["status"]) == (200, "ok")
            assert "version" not in answer.body
        assert json.loads((state / "admin.json").read_text())["url"] == manager.url
    assert any(health == 503 for _, health, _ in seen), seen
    assert all(there for there, health, _ in seen if health == 200)
    assert {live for _, _, live in seen} == {200}
