# SPDX-License-Identifier: Apache-2.0
"""Does a tenant learn from a failure what answers behind the host, and what does not?

A real manager; the host's part is the engine itself, under the agent's policy.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import fastdl
from fastdl.errors import FastdlError
from fastdl.manager.downloads.disclosure import HIDDEN, reason
from fastdl.wire import codec
from fastdl.wire import messages as m
from tests.env.certs import CertLab
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.faults import Rule
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone
from tests.env.origin import FaultOrigin, Resource


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager whose hosts may fetch from loopback."""
    async with running_zone(tmp_path / "manager") as made:
        name = "secstorage.allowed.internal.sites"
        await made.api("updateConfiguration", name=name, value="127.0.0.0/8")
        await made.agent("kvm1", pools=(local_pool("p1"),), work={"probe": probe, "download": load})
        yield made


async def probe(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    """What the agent's worker does, in this process."""
    assert isinstance(command.args, m.ProbeArgs)
    try:
        found = await asyncio.to_thread(look, command.args.transfer)
    except FastdlError as exc:
        return codec.failure_of(exc)
    return m.ProbeDone(size=found.size, public_source=found.public_source)


async def load(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
    """A download that fails as a probe does."""
    assert isinstance(command.args, m.DownloadArgs)
    try:
        await asyncio.to_thread(look, command.args.transfer)
    except FastdlError as exc:
        exc.retryable = False
        failure = codec.failure_of(exc)
        return m.Failure(code=failure.code, message=failure.message)
    raise AssertionError("it was to fail")


def look(transfer: m.Transfer) -> fastdl.Probe:
    return fastdl.probe_sync(
        transfer.sources,
        policy="strict",
        allowed_cidrs=transfer.allowed_cidrs,
        connect_timeout=2.0,
        stall_timeout=1.0,
        retry=0,
    )


async def tenant(zone: Zone) -> Client:
    """Somebody without any rights."""
    user = (await zone.api("createUser", username="tenant", password="password1"))["user"]
    keys = (await zone.api("registerUserKeys", id=user["id"]))["userkeys"]
    return Client({**zone.api.credentials, **keys})


@pytest.fixture
def places(certs: CertLab) -> Iterator[dict[str, str]]:
    """URLs of the kinds that a scan would tell apart."""
    answers = {
        "/404.qcow2": Resource.of(b"", rules=[Rule(status=404)]),
        "/403.qcow2": Resource.of(b"", rules=[Rule(status=403)]),
        "/500.qcow2": Resource.of(b"", rules=[Rule(status=500)]),
        "/moved.qcow2": Resource.of(b"", rules=[Rule(redirect="http://127.0.0.1:22/")]),
    }
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    context = certs.leaf("unknown-ca").server_context()
    with (
        FaultOrigin(answers) as plain,
        FaultOrigin({}, tls=context) as tls,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        threading.Thread(target=_banner, args=(other,), daemon=True).start()
        urls = {path[1:4]: plain.url(path) for path in answers}
        yield urls | {
            "closed": f"http://127.0.0.1:{port}/x.qcow2",
            "no http": f"http://127.0.0.1:{other.getsockname()[1]}/x.qcow2",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}/x.qcow2",
            "no name": "http://nothing-of-that-name.invalid/x.qcow2",
            "no trust": tls.url("/x.qcow2"),
            "no tls": plain.url("/x.qcow2").replace("http:", "https:"),
        }


def _banner(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")


async def refusal(client: Client, zone: Zone, url: str) -> tuple[type[FastdlError], str]:
    """How registering *url* is refused, without the words that the caller sent."""
    params = {"name": "t", "url": url, "format": "QCOW2", "hypervisor": "KVM"}
    with pytest.raises(FastdlError) as refused:
        await client("registerTemplate", zoneid=zone.id, directdownload="true", **params)
    return type(refused.value), refused.value.message.replace(url, "URL")


async def test_registration_tells_a_tenant_nothing_about_inner_networks(
    zone: Zone, places: dict[str, str]
) -> None:
    """Whatever is there, or is not: one class, one sentence. An administrator sees why."""
    theirs = await tenant(zone)
    told = {kind: await refusal(theirs, zone, url) for kind, url in places.items()}
    assert len(set(told.values())) == 1, told
    assert HIDDEN in told["closed"][1]
    seen = {kind: await refusal(zone.api, zone, url) for kind, url in places.items()}
    assert len({text for _, text in seen.values()}) >= 6, seen
    assert "Connection refused" in seen["closed"][1]


async def test_a_job_and_its_list_tell_a_tenant_nothing_either(
    zone: Zone, places: dict[str, str]
) -> None:
    """The origin vanished after the registration: the reason is for administrators."""
    theirs = await tenant(zone)
    await zone.api("updateConfiguration", name="allow.user.prepare.template", value="true")
    with FaultOrigin({"/x.qcow2": Resource.of(b"QFI\xfb" + bytes(200))}) as origin:
        params = {"name": "t", "url": origin.url("/x.qcow2"), "format": "QCOW2"}
        listed = await theirs(
            "registerTemplate", zoneid=zone.id, directdownload="true", hypervisor="KVM", **params
        )
    id_ = listed["template"][0]["id"]
    job = await theirs("prepareTemplate", zoneid=zone.id, templateid=id_)
    state = await theirs.job(job)
    assert state["jobstatus"] == 2
    assert state["jobresult"]["errortext"].endswith(HIDDEN)
    (row,) = (await theirs("listTemplateDownloads", templateid=id_))["templatedownload"]
    assert row["error"] == HIDDEN
    (row,) = (await zone.api("listTemplateDownloads", templateid=id_))["templatedownload"]
    assert "Connection refused" in row["error"]
    job = await zone.api("prepareTemplate", zoneid=zone.id, templateid=id_)
    assert "Connection refused" in (await zone.api.job(job))["jobresult"]["errortext"]


def test_what_is_told_to_whom() -> None:
    """Failures of public sources, and of the host itself, are for everybody who asked."""
    inner = m.Failure(code=10, message="refused")
    assert reason(inner, admin=False) == HIDDEN
    assert reason(inner, admin=True) == "refused"
    assert reason(m.Failure(code=10, message="r", public_source=True), admin=False) == "r"
    for code in (30, 33, 70, 74, 130):
        assert reason(m.Failure(code=code, message="r"), admin=False) == "r"
    for code in range(10, 26):
        assert reason(m.Failure(code=code, message="r"), admin=False) == HIDDEN
