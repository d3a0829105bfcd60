# SPDX-License-Identifier: Apache-2.0
"""Who may fill primary storage, with how much of what? Settings, accounts and pools decide before
a byte moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdl.errors import ApiConflictError, ApiParamError, FastdlError
from fastdl.wire import messages as m
from tests.env.fake_agent import FakeAgent, local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone

GIB = 1 << 30


class Sizes:
    """What the origin says of each template, by the last part of its URL: (file, disk)."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[int | None, int | None]] = {}

    async def probe(self, _agent: FakeAgent, command: m.Command) -> m.Done:
        """Answer a probe."""
        assert isinstance(command.args, m.ProbeArgs)
        name = command.args.transfer.sources[0].rpartition("/")[2].removesuffix(".qcow2")
        size, virtual = self.of.get(name, (1 << 20, GIB))
        return m.ProbeDone(size=size, virtual_size=virtual, format="qcow2")


@pytest.fixture
def sizes() -> Sizes:
    """What the origin says."""
    return Sizes()


@pytest.fixture
async def zone(tmp_path: Path, sizes: Sizes) -> AsyncIterator[Zone]:
    """A zone with one host and three pools of 10 GiB."""
    async with running_zone(tmp_path / "manager") as made:
        pools = tuple(
            replace(local_pool(name), capacity=10 * GIB, available=10 * GIB)
            for name in ("p1", "p2", "p3")
        )
        await made.agent("kvm1", pools=pools, work={"probe": sizes.probe})
        yield made


async def user(zone: Zone, name: str) -> Client:
    """A user of an account of their own."""
    id_ = (await zone.api("createUser", username=name, password="password1"))["user"]["id"]
    keys = (await zone.api("registerUserKeys", id=id_))["userkeys"]
    return Client({**zone.api.credentials, **keys})


async def register(zone: Zone, client: Client, name: str, **more: Any) -> str:
    """A template of that caller's."""
    answer = await client(
        "registerTemplate",
        name=name,
        url=f"https://mirror.example/{name}.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        zoneid=zone.id,
        directdownload="true",
        **more,
    )
    id_: str = answer["template"][0]["id"]
    return id_


async def setting(zone: Zone, name: str, value: str) -> None:
    """Change a setting."""
    await zone.api("updateConfiguration", name=name, value=value)


async def prepare(zone: Zone, client: Client, id_: str, **more: Any) -> dict[str, Any]:
    """Bring a template to pools and wait; the job."""
    answer = await client("prepareTemplate", zoneid=zone.id, templateid=id_, **more)
    return await client.job(answer)


async def test_prepare_template_is_the_administrators_unless_a_setting_opens_it(
    zone: Zone,
) -> None:
    """As in CloudStack; to others it looks like a command that does not exist."""
    one = await user(zone, "one")
    id_ = await register(zone, one, "t")
    with pytest.raises(FastdlError) as caught:
        await prepare(zone, one, id_)
    with pytest.raises(FastdlError) as unknown:
        await one("noSuchCommand")
    assert type(caught.value) is type(unknown.value)
    assert caught.value.message == unknown.value.message
    assert (await prepare(zone, zone.api, id_))["jobstatus"] == 1
    await setting(zone, "allow.user.prepare.template", "true")
    assert (await prepare(zone, one, id_))["jobstatus"] == 1


async def test_an_account_has_so_many_copies_and_bytes(zone: Zone, sizes: Sizes) -> None:
    """Counted when they are asked for, by who asks; freed when they are gone."""
    await setting(zone, "allow.user.prepare.template", "true")
    await setting(zone, "max.account.template.copies", "3")
    one = await user(zone, "one")
    first, second = [await register(zone, one, name) for name in ("a", "b")]
    assert (await prepare(zone, one, first, storageid="p1-id"))["jobstatus"] == 1
    with pytest.raises(ApiConflictError, match=r"'template copies'.*Limit = 3.*Amount = 1"):
        await prepare(zone, one, second)
    for pool in ("p2-id", "p3-id"):
        await prepare(zone, one, first, storageid=pool)
    with pytest.raises(ApiConflictError, match="Requested Resource Amount = 1"):
        await prepare(zone, one, second, storageid="p1-id")
    assert (await prepare(zone, one, first))["jobstatus"] == 1, "it is there already"
    await one.job(await one("deleteTemplate", id=first))
    assert (await prepare(zone, one, second))["jobstatus"] == 1
    await setting(zone, "max.account.template.copies", "-1")
    await setting(zone, "max.account.primary.storage", "5")
    sizes.of["c"] = (1 << 20, 2 * GIB)
    third = await register(zone, one, "c")
    with pytest.raises(ApiConflictError, match=f"Limit = {5 * GIB}.*Amount = {3 * GIB}"):
        await prepare(zone, one, third, hostids=zone.agents[0].host_id)
    assert (await prepare(zone, one, third, storageid="p1-id"))["jobstatus"] == 1
    assert (await prepare(zone, zone.api, third))["jobstatus"] == 1, "an administrator's are free"


async def test_two_requests_at_once_do_not_share_the_last_place(zone: Zone) -> None:
    """Whatever runs at the same time: one of them is refused."""
    await setting(zone, "allow.user.prepare.template", "true")
    await setting(zone, "max.account.template.copies", "1")
    one = await user(zone, "one")
    ids = [await register(zone, one, f"t{n}") for n in range(6)]
    answers = await asyncio.gather(
        *(prepare(zone, one, id_, storageid="p1-id") for id_ in ids), return_exceptions=True
    )
    assert sum(isinstance(answer, dict) for answer in answers) == 1
    assert sum(isinstance(answer, ApiConflictError) for answer in answers) == 5


async def test_a_template_that_is_too_large_is_refused_by_the_settings_name(
    zone: Zone, sizes: Sizes
) -> None:
    """The file, the disk, and the disk for the pool; the host hears what is allowed."""
    sizes.of |= {"file": (2 * GIB, GIB), "disk": (1 << 20, 15 * GIB), "pool": (1 << 20, 21 * GIB)}
    ids = {name: await register(zone, zone.api, name) for name in sizes.of}
    await setting(zone, "max.template.iso.size", "1")
    await setting(zone, "storage.max.volume.size", "12")
    for name, why in (
        ("file", r"max\.template\.iso\.size allows 1073741824"),
        ("disk", r"storage\.max\.volume\.size allows 12884901888"),
    ):
        with pytest.raises(ApiParamError, match=why):
            await prepare(zone, zone.api, ids[name])
    await setting(zone, "storage.max.volume.size", "25")
    with pytest.raises(ApiParamError, match="the capacity of pool p1 allows 21474836480"):
        await prepare(zone, zone.api, ids["pool"])
    await setting(zone, "storage.overprovisioning.factor", "2.5")
    assert (await prepare(zone, zone.api, ids["pool"], storageid="p1-id"))["jobstatus"] == 1
    (args,) = {
        command.args
        for document in zone.agents[0].documents
        for command in document.commands
        if isinstance(command.args, m.DownloadArgs)
    }
    assert (args.max_source_size, args.max_virtual_size) == (GIB, 25 * GIB)


async def test_pools_that_are_too_small_are_left_out(tmp_path: Path, sizes: Sizes) -> None:
    """Asked for everywhere, it goes where it fits."""
    sizes.of["t"] = (1 << 20, 15 * GIB)
    async with running_zone(tmp_path / "manager") as zone:
        pools = (
            replace(local_pool("small"), capacity=5 * GIB),
            replace(local_pool("large"), capacity=50 * GIB),
        )
        await zone.agent("kvm1", pools=pools, work={"probe": sizes.probe})
        id_ = await register(zone, zone.api, "t")
        assert (await prepare(zone, zone.api, id_))["jobstatus"] == 1
        rows = (await zone.api("listTemplateDownloads", templateid=id_))["templatedownload"]
        assert [row["storagename"] for row in rows] == ["large"]
