# SPDX-License-Identifier: Apache-2.0
"""N templates onto M hosts through the real manager: registered, prepared, waited for.

Every host is a ``fastdl agent`` process with a folder as its pool, or all share one folder as
hosts share a mounted file system. Starting them and registering the templates happens
before the clock starts; it stops when the manager has told of the last copy.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks import payload
from benchmarks.machine import process_cpu_s
from benchmarks.manager.process import (
    FASTDL,
    ManagerProcess,
    manager,
    started,
    tree_rss_bytes,
)
from benchmarks.provisioning import Provisioning
from benchmarks.runner import Bench
from benchmarks.scenarios import Scenario

NAMES: Final = ("manager", "manager-shared")
"""Contestants: a pool for each host, and one that all of them reach."""
_SAMPLE_S: Final = 0.2
"""Asking for the memory of twenty processes takes some milliseconds of the measured machine."""
_POLL_S: Final = 0.1
"""Asking costs the manager some milliseconds, which would be counted as its work."""


def provision(
    bench: Bench, name: str, scenario: Scenario, names: Sequence[str], hosts: int
) -> Provisioning:
    """Bring the origin's files *names* to *hosts* hosts. RuntimeError where a copy fails."""
    with tempfile.TemporaryDirectory(prefix="bulk-", dir=bench.work) as made:
        folder = Path(made)
        pools = [folder / f"pool{0 if name == 'manager-shared' else n}" for n in range(hosts)]
        for pool in set(pools):
            pool.mkdir()
        with manager(folder) as served, _agents(served, pools) as (agents, zone):
            result = Provisioning(contestant=name, copies=len(names) * len(set(pools)))
            began = time.monotonic()
            templates = _register(served, bench, scenario, names, zone)
            result.registered_s = time.monotonic() - began
            began_at = _measure(bench, served, agents, templates, zone, result)
        found = {pool: _volumes(pool) for pool in sorted(set(pools))}
        result.host_done_s = [
            max((path.stat().st_ctime for path in volumes), default=0.0) - began_at
            for volumes in found.values()
        ]
        _check(bench, scenario, found, len(names))
    return result


@contextlib.contextmanager
def _agents(
    served: ManagerProcess, pools: Sequence[Path]
) -> Iterator[tuple[list[subprocess.Popen[bytes]], str]]:
    """A zone with one agent for each of *pools*, all Up; and the zone's id."""
    zone: str = served.api("createZone", name="bulk")["zone"]["id"]
    word = "shared:" if len(set(pools)) < len(pools) else ""
    with contextlib.ExitStack() as stack:
        agents = []
        for number, pool in enumerate(pools):
            token = served.api("createHostToken", zoneid=zone)["token"]
            words = [
                "agent",
                "--manager",
                f"https://{served.agents_at}",
                "--token",
                token,
                "--state",
                f"agent{number}",
                "--config-dir",
                f"etc{number}",
                "--name",
                f"kvm{number}",
                "--pool",
                f"p{pool.name}={word}{pool}",
            ]
            name = f"agent{number}"
            agents.append(stack.enter_context(started(served.folder, name, *FASTDL, *words)))

        def all_up() -> bool:
            return served.api("listHosts", state="Up").get("count", 0) == len(pools)

        served.until("the hosts' connection", all_up)
        yield agents, zone


def _register(
    served: ManagerProcess, bench: Bench, scenario: Scenario, names: Sequence[str], zone: str
) -> list[str]:
    """Allow the origin, trust it, register its files with their digest; return their ids."""
    served.api("updateConfiguration", name="secstorage.allowed.internal.sites", value="127.0.0.0/8")
    if scenario.scheme == "https":
        served.api(
            "uploadTemplateDirectDownloadCertificate",
            name="origin",
            hypervisor="KVM",
            zoneid=zone,
            certificate=bench.origin.cacert.read_text(),
        )
    image = bench.payload(scenario)
    ids = []
    for name in names:
        with bench.origin.urls(scenario, name) as urls:
            answer = served.api(
                "registerTemplate",
                name=name,
                url=urls[0],
                hypervisor="KVM",
                zoneid=zone,
                format="RAW" if scenario.image == "raw" else "QCOW2",
                directdownload="true",
                checksum=f"{{SHA-256}}{image.sha256}",
            )
        ids.append(answer["template"][0]["id"])
    return ids


def _measure(
    bench: Bench,
    served: ManagerProcess,
    agents: Sequence[subprocess.Popen[bytes]],
    templates: Sequence[str],
    zone: str,
    result: Provisioning,
) -> float:
    """Prepare all *templates* and wait for all copies; return when that began."""
    pids = [agent.pid for agent in agents]
    bench.origin.forget_requests()
    origin, host_cpu, own_cpu = bench.origin.cpu_s(), process_cpu_s(pids), served.cpu_s()
    began_at, began = time.time(), time.monotonic()
    with _watched(pids, result):
        jobs = [
            served.api("prepareTemplate", templateid=id_, zoneid=zone)["jobid"] for id_ in templates
        ]
        while jobs:
            state = served.api("queryAsyncJobResult", jobid=jobs[0])
            if state["jobstatus"] == 2:
                raise RuntimeError(f"{result.contestant}: {state['jobresult']}")
            if state["jobstatus"] == 1:
                jobs.pop(0)
            elif time.monotonic() - began > bench.timeout_s:
                raise RuntimeError(f"{result.contestant}: time limit reached\n{served.log_tail()}")
            else:
                time.sleep(_POLL_S)
        result.all_done_s = time.monotonic() - began
    result.manager_cpu_s = served.cpu_s() - own_cpu
    result.cpu_s = process_cpu_s(pids) - host_cpu + result.manager_cpu_s
    result.origin_cpu_s = bench.origin.cpu_s() - origin
    requests = bench.origin.requests()
    result.requests = len(requests)
    result.sent_bytes = sum(request.body_bytes for request in requests)
    return began_at


@contextlib.contextmanager
def _watched(pids: Sequence[int], result: Provisioning) -> Iterator[None]:
    """Note the most memory of each agent with its workers meanwhile."""
    peaks = [0] * len(pids)
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            for at, pid in enumerate(pids):
                peaks[at] = max(peaks[at], tree_rss_bytes(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        result.peak_bytes = peaks


def _volumes(pool: Path) -> list[Path]:
    """What was installed there; hidden files are the pool's own."""
    return [path for path in pool.iterdir() if path.is_file() and not path.name.startswith(".")]


def _check(bench: Bench, scenario: Scenario, found: dict[Path, list[Path]], templates: int) -> None:
    """RuntimeError unless every pool holds every template, byte by byte."""
    image = bench.payload(scenario)
    for pool, volumes in found.items():
        if len(volumes) != templates:
            raise RuntimeError(f"{pool.name} holds {len(volumes)} of {templates} templates")
        for path in volumes:
            if payload.content_digest(path, path.stat().st_size) != image.source_content:
                raise RuntimeError(f"wrong bytes in {pool.name}/{path.name}")
