# SPDX-License-Identifier: Apache-2.0
"""A day with Ansible's own CloudStack modules: real where they are installed, and recorded.

Real: ``ansible-playbook`` (of the environment, or FASTDL_ANSIBLE=/path/to/it) and the collection
ngine_io.cloudstack play ``tests/vectors/ansible/day.yml``. Recorded: what they asked while they
did is sent again by ``cs``, the library that they use, and every request has to succeed.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cs import CloudStack

from tests.env.fake_agent import local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone

VECTORS = Path(__file__).parents[1] / "vectors" / "ansible"


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with one zone and one host."""
    async with running_zone(tmp_path / "manager") as made:
        # Ansible takes its time: the host has to beat meanwhile.
        await made.agent("kvm1", pools=(local_pool("p1"),), beats=True)
        yield made


def resolved(value: str, answers: list[dict[str, Any]]) -> str:
    """The id that a recorded path means this time."""
    if not value.startswith("$["):
        return value
    number, *path = json.loads(value[1:])
    found: Any = answers[number]
    for step in path:
        found = found[step]
    return str(found)


async def test_what_ansible_asked_is_answered(zone: Zone) -> None:
    """Recorded: zones, accounts, users, templates, ISOs and hosts, from creation to absence."""
    requests = json.loads((VECTORS / "day.json").read_text())["requests"]
    keys = zone.api.credentials
    cs = CloudStack(endpoint=keys["url"], key=keys["apikey"], secret=keys["secretkey"], timeout=30)

    def play() -> None:
        answers: list[dict[str, Any]] = []
        for request in requests:
            # Faster than Ansible: two equal requests of one second would be a copy.
            cs.expiration = dt.timedelta(seconds=600 + len(answers))
            params = {name: resolved(value, answers) for name, value in request["params"].items()}
            answer = getattr(cs, request["command"])(**params)
            while request["command"] == "queryAsyncJobResult" and answer["jobstatus"] == 0:
                answer = cs.queryAsyncJobResult(**params)
            listed = answer.get("count", 0)
            assert listed == request.get("count", listed), (request, answer)
            answers.append(answer)

    await asyncio.to_thread(play)
    assert (await zone.api("listHosts")) == {}
    assert [a["name"] for a in (await zone.api("listAccounts"))["account"]] == ["admin"]


def playbook() -> str:
    """The path of ansible-playbook; skips where it or the collection is missing."""
    found = os.environ.get("FASTDL_ANSIBLE") or shutil.which("ansible-playbook")
    if found is None:
        pytest.skip("ansible-playbook is not installed (FASTDL_ANSIBLE says where it is)")
    galaxy = Path(found).with_name("ansible-galaxy")
    listed = subprocess.run(
        [galaxy, "collection", "list", "ngine_io.cloudstack"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "ngine_io.cloudstack" not in listed.stdout:
        pytest.skip("Ansible's collection ngine_io.cloudstack is not installed")
    return found


@pytest.mark.parametrize("method", ["get", "post"])
async def test_ansible_itself_plays_a_day(zone: Zone, tmp_path: Path, method: str) -> None:
    """Real: each task is created, found unchanged, changed, absent."""
    keys, program = zone.api.credentials, playbook()
    python = Path(program).with_name("python")
    environment = {
        **os.environ,
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "CLOUDSTACK_ENDPOINT": keys["url"],
        "CLOUDSTACK_KEY": keys["apikey"],
        "CLOUDSTACK_SECRET": keys["secretkey"],
        "CLOUDSTACK_METHOD": method,
    }
    process = await asyncio.create_subprocess_exec(
        program,
        "-i",
        "localhost,",
        "-e",
        f"ansible_python_interpreter={python}",
        str(VECTORS / "day.yml"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 0, said.decode()[-4000:]
    assert b"failed=0" in said
