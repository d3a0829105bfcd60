# SPDX-License-Identifier: Apache-2.0
"""How long until N templates lie on M hosts' storage? The engine alone, one process a download.

Every host takes the templates in an order of its own, one after the other; all hosts run at once
against one origin. What a manager saves by fetching a template once a pool is not in this figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import meter, payload, runner, targets
from benchmarks.compare import chosen
from benchmarks.options import say
from benchmarks.rivals.base import Job, Rival
from benchmarks.scenarios import Scenario, parse_scenario

_DEFAULT = "http-64MiB-raw-file-sha256"
_DEFAULT_RIVALS = "cloudstack"


@dataclass(slots=True)
class Provisioning:
    """One contestant provisioning everything. Times in seconds since the start."""

    contestant: str
    all_done_s: float = 0.0
    host_done_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    origin_cpu_s: float = 0.0
    sent_bytes: int = 0
    requests: int = 0

    @property
    def fairness(self) -> float:
        """Jain's index over the hosts' rates: 1 where all were served alike."""
        rates = [1 / seconds for seconds in self.host_done_s]
        return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


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
    rivals = chosen(args.rivals or _DEFAULT_RIVALS)
    done: list[Provisioning] = []
    with runner.bench(args.work, timeout_s=args.timeout * templates) as bench:
        image = bench.payload(scenario)
        with _copies(bench, image, templates) as names:
            for turn in range(args.rounds):
                for rival in rivals if turn % 2 == 0 else reversed(rivals):
                    if reason := rival.refuses(scenario):
                        raise ValueError(f"{rival.name} takes no part: {reason}")
                    result = provision(bench, rival, scenario, names, hosts)
                    done.append(result)
                    say(_line(result))
    summary = {
        "bulk": args.bulk,
        "scenario": scenario.name,
        "template_bytes": image.source_bytes,
        "runs": [_as_dict(result) for result in done],
    }
    print(json.dumps(summary) if args.json else _text(done, templates * hosts * image.source_bytes))
    return 0


@contextlib.contextmanager
def _copies(bench: runner.Bench, image: payload.Payload, count: int) -> Any:
    """*count* names for the same image, as an origin with many templates has them."""
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
    """All *names* onto the storage of *hosts* hosts. ``RuntimeError`` where one download fails."""
    image = bench.payload(scenario)
    result = Provisioning(contestant=rival.name)
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


def _line(result: Provisioning) -> str:
    first, last = min(result.host_done_s), max(result.host_done_s)
    return (
        f"{result.contestant:<16} all after {result.all_done_s:6.2f} s  hosts "
        f"{first:.2f}-{last:.2f}  fairness {result.fairness:.3f}  {result.cpu_s:6.2f} cpu s  "
        f"origin sent {result.sent_bytes / 1e9:.2f} GB in {result.requests} requests"
    )


def _text(done: list[Provisioning], total: int) -> str:
    rows = [_line(result) + f"  {total / result.all_done_s / 1e6:.0f} MB/s" for result in done]
    return "\n".join(rows)


def _as_dict(result: Provisioning) -> dict[str, Any]:
    fields = {name: getattr(result, name) for name in Provisioning.__slots__}
    return {**fields, "fairness": round(result.fairness, 4)}
