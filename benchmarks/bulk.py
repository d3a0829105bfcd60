# SPDX-License-Identifier: Apache-2.0
"""How long until N templates lie on M hosts' storage?

Through the real manager and agents (``benchmarks/manager/provision.py``: ``manager``, one pool per
host, and ``manager-shared``, one pool for all), with the engine alone, and in the naive way. The
last two run one process per download: every host fetches the templates in its own order, one
after the other, all hosts concurrently from one origin.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine, meter, payload, runner, targets
from benchmarks.manager import provision as zone_ways
from benchmarks.options import say
from benchmarks.provisioning import Provisioning
from benchmarks.rivals import chosen
from benchmarks.rivals.base import Job, Rival
from benchmarks.scenarios import Scenario, parse_scenario
from benchmarks.stored import save

_DEFAULT = "http-64MiB-raw-file-sha256"
_DEFAULT_RIVALS = ("fastdl", "cloudstack")


def run(args: argparse.Namespace) -> int:
    """Provision ``args.bulk`` (NxM) with fastdl and the chosen rivals, round by round."""
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", args.bulk)
    if not match or "0" in match.groups():
        raise ValueError(f"--bulk takes NxM, templates by hosts, not {args.bulk!r}")
    templates, hosts = map(int, match.groups())
    if len(args.scenarios) > 1:
        raise ValueError("--bulk takes one scenario")
    scenario = parse_scenario(args.scenarios[0] if args.scenarios else _DEFAULT)
    if scenario.target != "file" or scenario.shaped:
        raise ValueError("--bulk provisions files over plain loopback")
    zones, rivals = _contestants(args.rivals)
    for rival in rivals:
        if reason := rival.refuses(scenario):
            raise ValueError(f"{rival.name} takes no part: {reason}")
    done: list[Provisioning] = []
    with runner.bench(args.work, timeout_s=args.timeout * templates) as bench:
        image = bench.payload(scenario)
        with _copies(bench, image, templates) as names:
            ways: list[Callable[[], Provisioning]] = [
                *(
                    partial(zone_ways.provision, bench, zone, scenario, names, hosts)
                    for zone in zones
                ),
                *(partial(provision, bench, rival, scenario, names, hosts) for rival in rivals),
            ]
            for turn in range(args.rounds):
                for way in ways if turn % 2 == 0 else reversed(ways):
                    done.append(way())
                    say(done[-1].line())
    summary = {
        "bulk": args.bulk,
        "of": scenario.name,
        "template_bytes": image.source_bytes,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(args.work),
        "runs": [result.as_dict() for result in done],
    }
    if args.save:
        say(f"stored {save(summary, 'bulk', summary['bulk'], str(summary['of']))}")
    print(json.dumps(summary) if args.json else table(summary))
    return 0


def _contestants(names: str | None) -> tuple[list[str], list[Rival]]:
    """(ways through the manager, rivals with one process per download) that *names* lists."""
    wanted = names.split(",") if names else [*zone_ways.NAMES, *_DEFAULT_RIVALS]
    rivals = [name for name in wanted if name not in zone_ways.NAMES]
    return [n for n in wanted if n in zone_ways.NAMES], chosen(",".join(rivals))


@contextlib.contextmanager
def _copies(bench: runner.Bench, image: payload.Payload, count: int) -> Any:
    """*count* names for the same image, like an origin with many templates."""
    names = [f"{index}-{image.name}" for index in range(count)]
    try:
        for name in names:
            (bench.files / name).unlink(missing_ok=True)
            (bench.files / name).hardlink_to(bench.files / image.name)
        yield names
    finally:
        for name in names:
            (bench.files / name).unlink(missing_ok=True)


def provision(
    bench: runner.Bench, rival: Rival, scenario: Scenario, names: Sequence[str], hosts: int
) -> Provisioning:
    """All *names* onto the storage of *hosts* hosts. ``RuntimeError`` if a download fails."""
    image = bench.payload(scenario)
    result = Provisioning(contestant=rival.name, copies=len(names) * hosts)
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="bulk-", dir=bench.work) as folder:

        def host(index: int) -> float:
            order = [*names[index % len(names) :], *names[: index % len(names)]]
            for name in order:
                cost = _download(bench, rival, scenario, name, Path(folder, str(index), name))
                if cost.failure:
                    raise RuntimeError(f"{rival.name}: {cost.failure}")
                with lock:
                    result.cpu_s += cost.cpu_s
            return time.monotonic() - begin

        bench.origin.forget_requests()
        origin_before = bench.origin.cpu_s()
        begin = time.monotonic()
        with ThreadPoolExecutor(hosts) as pool:
            result.host_done_s = list(pool.map(host, range(hosts)))
        result.all_done_s = time.monotonic() - begin
        result.origin_cpu_s = bench.origin.cpu_s() - origin_before
        requests = bench.origin.requests()
        result.requests = len(requests)
        result.sent_bytes = sum(request.body_bytes for request in requests)
        for path in Path(folder).glob("*/*/target.img"):
            if payload.content_digest(path, path.stat().st_size) != image.source_content:
                raise RuntimeError(f"{rival.name}: wrong bytes in {path.parent.name}")
    return result


def _download(
    bench: runner.Bench, rival: Rival, scenario: Scenario, name: str, folder: Path
) -> meter.Cost:
    """One template onto one host's storage, which keeps it."""
    image = bench.payload(scenario)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    target = targets.Target(kind="file", path=folder / "target.img", size=image.source_bytes)
    with bench.origin.urls(scenario, name) as urls:
        job = Job(
            scenario=scenario,
            urls=urls,
            target=target,
            image=image,
            cacert=bench.origin.cacert,
            scratch=scratch,
        )
        cost = meter.run(rival.steps(job), folder, timeout_s=bench.timeout_s)
    if cost.failure is None:
        target.flush()
        if job.hashed and job.sha256 not in cost.output.lower():
            cost.failure = "did not report the digest of the source"
    return cost


def table(summary: dict[str, Any]) -> str:
    """A stored result as Markdown: medians over its rounds, one row per contestant."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in summary["runs"]:
        by_name.setdefault(entry["contestant"], []).append(entry)
    rows = [
        "| contestant | copies | all s | hosts s | fairness | CPU s | sent GB | MiB a host | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in by_name.items():

        def middle(key: str, runs: list[dict[str, Any]] = runs) -> float:
            return statistics.median(entry[key] for entry in runs)

        first = statistics.median(min(entry["host_done_s"]) for entry in runs)
        last = statistics.median(max(entry["host_done_s"]) for entry in runs)
        peaks = [max(entry["peak_bytes"], default=0) for entry in runs]
        rows.append(
            f"| {name} | {runs[0]['copies']} | {middle('all_done_s'):.2f} | {first:.2f}-{last:.2f} "
            f"| {middle('fairness'):.3f} | {middle('cpu_s'):.2f} "
            f"| {middle('sent_bytes') / 1e9:.2f} | {max(peaks) >> 20 or '-'} | {len(runs)} |"
        )
    return "\n".join([*rows, "", *_against(by_name)])


def _against(by_name: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How the ways through the manager compare with the naive way, better or worse, in words."""
    naive = by_name.get("cloudstack")
    if naive is None:
        return []

    def share(runs: list[dict[str, Any]], key: str) -> float:
        whole = statistics.median(entry[key] for entry in naive)
        return statistics.median(entry[key] for entry in runs) / whole

    return [
        f"{name}: {share(runs, 'all_done_s'):.2f} of the naive way's time, "
        f"{share(runs, 'cpu_s'):.2f} of its processor time, "
        f"{share(runs, 'sent_bytes'):.2f} of the origin's bytes."
        for name, runs in by_name.items()
        if name in zone_ways.NAMES
    ]
