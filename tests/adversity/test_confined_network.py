# SPDX-License-Identifier: Apache-2.0
"""Where can a download's process connect after what it read has taken it over? Where its job can.

In a network with an inside and an outside; and a job that nobody took over notices nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.broker import can_broker
from tests.env.attacker import Target
from tests.env.names import name_server
from tests.env.nfs import nfs_server
from tests.env.sides import (
    IMAGE,
    LINK_LOCAL,
    METADATA,
    NAMESERVER,
    PRIVATE,
    PUBLIC,
    PUBLIC_TOO,
    Net,
)

pytestmark = pytest.mark.skipif(not can_broker(), reason="nobody may look into processes here")
ROOT = Path(__file__).parents[2]


def _job(net: Net, *sources: str, **options: Any) -> dict[str, Any]:
    return {
        "action": "fetch",
        "sources": sources,
        "target": str(net.folder / "pool" / "x"),
        "checksum": None,
        "options": {"policy": "strict", "source_format": "raw", "target_format": "same", **options},
        "placement": {},
        "confinement": {"required": True, "ids": [66_001, 66_001]},
    }


def _answer(net: Net, words: list[str], job: dict[str, Any]) -> dict[str, Any]:
    """The last line of a worker in the namespace."""
    worker = subprocess.Popen(
        [*net.space.prefix, sys.executable, "-P", "-m", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RES_OPTIONS": "single-request"},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    lines = worker.stdout.read().splitlines()
    worker.communicate(timeout=30)
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _reached(net: Net, job: dict[str, Any], *places: str, free: bool = False) -> list[str]:
    """Which of *places* a process that was taken over reaches in the job's place.

    *free*: without any confinement, to see that the places are there.
    """
    port = net.other.port
    target = Target(*[""] * 11, refused=[p if " " in p else f"{p} {port}" for p in places])
    answer = _answer(
        net,
        ["tests.env.attacker", "free reach" if free else "reach", json.dumps(target._asdict())],
        job,
    )
    found: list[str] = json.loads(answer["error"]["message"])
    return [place.replace(f" {port}", "") for place in found]


EVERYWHERE = (PUBLIC_TOO, PRIVATE, "127.0.0.1", "::1", f"::ffff:{PRIVATE}", METADATA, LINK_LOCAL)


def test_a_job_of_the_outside_reaches_nothing_inside(net: Net) -> None:
    """Not the metadata service, not the host's own services, not the storage network."""
    job = _job(net, f"http://{PUBLIC}:{net.other.port}/x")
    assert _reached(net, job, PUBLIC, *EVERYWHERE) == [PUBLIC, PUBLIC_TOO]
    assert set(_reached(net, job, *EVERYWHERE, free=True)) >= set(EVERYWHERE)


def test_a_job_of_the_inside_reaches_no_further_inside(net: Net) -> None:
    """What the operator's own network may lead to: itself, and the outside."""
    job = _job(net, f"http://{PRIVATE}:{net.other.port}/x")
    found = _reached(net, job, PRIVATE, *EVERYWHERE)
    assert found == [PRIVATE, PUBLIC_TOO, PRIVATE, f"::ffff:{PRIVATE}"]


def test_a_job_reaches_the_ports_of_its_kind_alone(net: Net) -> None:
    """A mail server is no mirror."""
    job = _job(net, f"http://{PUBLIC}:{net.other.port}/x")
    places = (f"{PUBLIC} 22", f"{PUBLIC} 25", f"{PUBLIC} 111", f"{PUBLIC} 443", f"{PUBLIC} 2049")
    assert _reached(net, job, *places) == [f"{PUBLIC} 443", f"{PUBLIC} 2049"]


def test_behind_a_proxy_only_the_proxy_is_reached(net: Net) -> None:
    """It is the one that connects; wherever it lies, the operator has named it."""
    job = _job(net, f"http://{PUBLIC}/x", proxy=f"http://127.0.0.1:{net.other.port}")
    assert _reached(net, job, "127.0.0.1", *EVERYWHERE) == ["127.0.0.1", "127.0.0.1"]


def test_name_servers_are_asked_and_nobody_else_gets_datagrams(net: Net) -> None:
    """Those of resolv.conf, on their port."""
    job = _job(net, f"http://{PUBLIC}:{net.other.port}/x")
    places = (f"{NAMESERVER} 53", f"{PUBLIC} 53", f"{NAMESERVER} 54")
    assert _reached(net, job, *places) == [f"{NAMESERVER} 53", f"datagrams to {NAMESERVER} 53"]


@pytest.mark.parametrize("long", [False, True], ids=["datagrams", "a stream"])
def test_names_are_resolved_as_ever(net: Net, *, long: bool) -> None:
    """The resolver's calls go through other hands; an answer may be too long for a datagram."""
    stream = net.space.listen(NAMESERVER, 53) if long else None
    with name_server(net.space.names(NAMESERVER), {"origin.test": [PUBLIC]}, stream) as names:
        url = f"http://origin.test:{net.typed.port}/image.raw"
        answer = _answer(net, ["fastdl.agent.worker"], _job(net, url))
    assert answer.get("result"), answer
    assert names.asked["origin.test"]
    assert (net.folder / "pool" / "x").read_bytes() == IMAGE


def test_a_download_over_nfs_connects_from_a_port_of_roots(net: Net, tmp_path: Path) -> None:
    """``secure`` exports want that, and the process that reads has no right to one."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "image.raw").write_bytes(IMAGE)
    with nfs_server(folder, tmp_path / "nfs", space=net.space) as server:
        url = server.url("image.raw").replace("127.0.0.1", PRIVATE)
        job = _job(net, url, nfs_servers=[f"{PRIVATE}/32"])
        found = _reached(net, job, f"{PRIVATE} 111", f"{PUBLIC} 111")
        assert found == [f"{PRIVATE} 111", "from a port of root's"]
        answer = _answer(net, ["fastdl.agent.worker"], job)
    assert answer.get("result"), answer
    assert (net.folder / "pool" / "x").read_bytes() == IMAGE
