# SPDX-License-Identifier: Apache-2.0
"""Does what a manager keeps in memory depend on what is, and not on what has been?"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final

from tests.env.fake_agent import local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.process import eventually
from tests.env.zone_views import upload

CACHES: Final = {
    "Allowance._used",  # pace.KNOWN_MAX hosts
    "Buckets._left",  # rates.BUCKETS_MAX callers
    "CopyWatch._listed",  # the pools of the last hours
    "Metrics._origins",  # metrics.ORIGINS_MAX
    "Probing._reached",  # probing.ORIGINS_MAX
}
"""What remembers who was there, and has a limit of its own."""


def kept(*roots: object) -> dict[str, int]:
    """Class and attribute → entries in the containers of all objects of ours that *roots* reach."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", root) for root in roots]
    while todo:
        name, one = todo.pop()
        if id(one) in seen or isinstance(one, str | bytes | int | float | type | None):
            continue
        seen.add(id(one))
        if isinstance(one, Mapping | Set | list | tuple | deque):
            found[name] = found.get(name, 0) + len(one)
            values = list(one.values() if isinstance(one, Mapping) else one)
            todo += [(name, value) for value in values]
        elif type(one).__module__.startswith("fastdl."):
            names = {*getattr(one, "__dict__", ()), *getattr(type(one), "__slots__", ())}
            for attribute in names:
                what = f"{type(one).__qualname__}.{attribute}"
                todo.append((what, getattr(one, attribute, None)))
    return found


async def history(zone: Zone, number: int) -> None:
    """A host comes, works and goes, and so do a template and a certificate."""
    name = f"n{number}"
    agent = await zone.agent(name, pools=(local_pool(name),))
    certificate = await upload(zone, name)
    template = (await zone.template(name, url=f"https://m{number}.example/t.qcow2"))["id"]
    await zone.api("prepareTemplate", templateid=template, zoneid=zone.id)

    async def prepared() -> bool:
        listed = await zone.api("listTemplateDownloads", templateid=template)
        return all(one["state"] == "DONE" for one in listed["templatedownload"])

    await eventually(prepared, within=20)
    await agent.close_connection_only()
    await agent.connect()
    await zone.api("deleteTemplate", id=template)
    await zone.api("deleteTemplateDirectDownloadCertificate", id=certificate["id"])
    await zone.api("deleteHost", id=agent.host_id, forced="true", forcedestroylocalstorage="true")
    await agent.close()


async def test_hosts_templates_and_certificates_that_went_leave_nothing(tmp_path: Path) -> None:
    """Of one of each that came and went as much is kept as of three."""
    async with running_zone(tmp_path / "manager") as zone:
        await history(zone, 0)
        before = kept(zone.manager)
        assert {"HostHandler._presence", "ProgressBoard._holder", "Fleet._hosts"} < before.keys()
        for number in (1, 2):
            await history(zone, number)

        grown = set(kept(zone.manager))

        async def same() -> bool:
            """What is under way may still end."""
            nonlocal grown
            after = kept(zone.manager)
            grown = {what for what in grown if after.get(what, 0) > before.get(what, 0)} - CACHES
            return not grown

        with contextlib.suppress(TimeoutError):
            await eventually(same, within=5)
        assert grown == set()
