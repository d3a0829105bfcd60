# SPDX-License-Identifier: Apache-2.0
"""How is a scenario measured? Warm-up, then shuffled rounds in which every contestant runs once."""

from __future__ import annotations

import compileall
import contextlib
import datetime
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import floors, line, machine, meter, origin, payload, stats, targets
from benchmarks.machine import CpuClock
from benchmarks.rivals.base import Job, Rival
from benchmarks.scenarios import Scenario

DISTURBED: Final = 0.25  # of wall x cores taken by others: the run does not count
_ORDER_SEED: Final = 20
_CAPABILITIES: Final = "OPENSSL_ia32cap"  # of the processor, as OpenSSL sees them
_PATIENCE: Final = 12  # times fastdl's own warm-up, and no less than _PATIENCE_S: then it is out
_PATIENCE_S: Final = 20.0
_PAYLOAD: Final = 1448 / 1500  # of a packet: the kernel's token bucket counts headers too
Say = Callable[[str], None]


@dataclass(slots=True)
class Run:
    """One contestant, once."""

    contestant: str
    turn: int
    durable_s: float
    cost: meter.Cost
    origin_cpu_s: float
    kthread_cpu_s: float
    disturbed: float
    requests: int
    sent_bytes: int
    cached_bytes: int

    def counts(self) -> bool:
        return self.cost.failure is None and self.disturbed <= DISTURBED

    def as_dict(self) -> dict[str, Any]:
        return {
            "round": self.turn,
            "durable_s": round(self.durable_s, 4),
            "cpu_s": round(self.cost.cpu_s, 4),
            "origin_cpu_s": round(self.origin_cpu_s, 3),
            "kthread_cpu_s": round(self.kthread_cpu_s, 3),
            "disturbed": round(self.disturbed, 3),
            "requests": self.requests,
            "sent_bytes": self.sent_bytes,
            "cached_bytes": self.cached_bytes,
            "failure": self.cost.failure,
            **meter.as_dict(self.cost),
        }


@dataclass(slots=True)
class Bench:
    """A working folder with an origin over it; made once for many scenarios.

    ``hopeless`` are the contestants that ran into the time limit, and where: one that hangs
    would hang again, and is excluded.
    """

    work: Path
    files: Path
    origin: origin.Origin
    timeout_s: float
    path: str = "loopback"
    hopeless: dict[str, str] = field(default_factory=dict)

    def payload(self, scenario: Scenario) -> payload.Payload:
        return payload.make(self.files, scenario.image, scenario.size)


@contextlib.contextmanager
def bench(work: Path, *, timeout_s: float = 120.0) -> Iterator[Bench]:
    """The working folder *work* (payloads in it are kept for the next time)."""
    # As pip leaves a package: where Python may not write its byte code (an environment
    # variable is enough), every process would compile what was edited since, and be charged.
    compileall.compile_dir(machine.CHECKOUT / "src", quiet=2)
    files = work / "files"
    files.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="origin-", dir=work) as state,
        origin.running(Path(state), files) as server,
    ):
        yield Bench(work=work, files=files, origin=server, timeout_s=timeout_s)


def run_once(
    bench_: Bench, rival: Rival, job: Job, turn: int, *, timeout_s: float | None = None
) -> Run:
    """Fresh target, one run, its bytes checked; ``Cost.failure`` says what went wrong."""
    _empty(job.scratch)
    job.target.wipe()
    bench_.origin.forget_requests()
    steps = rival.steps(job)
    before, origin_before, own_before = CpuClock.now(), bench_.origin.cpu_s(), time.process_time()
    begin = time.monotonic()
    cost = meter.run(steps, job.scratch.parent, timeout_s=timeout_s or bench_.timeout_s)
    if cost.failure is None:
        job.target.flush()
    durable = time.monotonic() - begin
    after = CpuClock.now()
    origin_cpu = bench_.origin.cpu_s() - origin_before
    own = time.process_time() - own_before
    kthreads = after.kthreads_s - before.kthreads_s
    others = after.machine_s - before.machine_s - cost.cpu_s - origin_cpu - kthreads - own
    requests = bench_.origin.requests()
    run = Run(
        contestant=rival.name,
        turn=turn,
        durable_s=durable,
        cost=cost,
        origin_cpu_s=origin_cpu,
        kthread_cpu_s=kthreads,
        disturbed=max(0.0, others) / (durable * len(os.sched_getaffinity(0))),
        requests=len(requests),
        sent_bytes=sum(request.body_bytes for request in requests),
        cached_bytes=0 if cost.failure else job.target.cached_bytes(),
    )
    if cost.failure is None:
        cost.failure = _wrong(job, cost)
    return run


def _wrong(job: Job, cost: meter.Cost) -> str | None:
    """What is wrong with the result of a run that claims success, or None."""
    if job.scenario.digest == "sha256" and job.sha256 not in cost.output.lower():
        return "did not report the digest of the source"
    if job.target.kind == "null":
        return None
    wanted = job.image.content if job.scenario.converts else job.image.source_content
    return None if job.target.content() == wanted else "wrong bytes on the target"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


@dataclass(slots=True)
class Outcome:
    """All results of a scenario; ``as_dict`` is the JSON object that is stored."""

    scenario: Scenario
    image: payload.Payload
    runs: list[Run] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    floors: list[dict[str, float]] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)
    path: str = ""
    limit_s: float | None = None


@contextlib.contextmanager
def prepared(bench_: Bench, scenario: Scenario, *, link_rates: Sequence[int] = ()) -> Iterator[Job]:
    """The job of *scenario*: payload, target and path exist inside the context.

    *link_rates* (bytes/s) give the mirrors unequal links.
    """
    image = bench_.payload(scenario)
    size = image.virtual_bytes if scenario.converts else image.source_bytes
    with (
        _processor(scenario),
        _far_away(bench_, scenario, link_rates),
        tempfile.TemporaryDirectory(prefix="run-", dir=bench_.work) as folder,
        targets.opened(scenario.target, Path(folder), size) as target,
        bench_.origin.urls(scenario, image.name, link_rates) as urls,
    ):
        metalink = Path(folder) / "image.meta4" if scenario.by_metalink else None
        if metalink is not None:
            metalink.write_text(image.metalink(bench_.files, target.path.name, urls))
        yield Job(
            scenario=scenario,
            metalink=metalink,
            urls=urls,
            target=target,
            image=image,
            cacert=bench_.origin.cacert,
            scratch=Path(folder) / "scratch",
        )


@contextlib.contextmanager
def _processor(scenario: Scenario) -> Iterator[None]:
    """For what starts in the context OpenSSL's processor is the one of *scenario*."""
    if scenario.cpu == "nosha":
        os.environ[_CAPABILITIES] = ":~0x20000000"
    try:
        yield
    finally:
        os.environ.pop(_CAPABILITIES, None)


@contextlib.contextmanager
def _far_away(bench_: Bench, scenario: Scenario, link_rates: Sequence[int]) -> Iterator[None]:
    """If the scenario asks for it: a separate origin at the far end of a line, in the context.

    This thread, and so everything that it starts, is then at the near end.
    """
    if scenario.path == "loopback":
        bench_.path = "loopback" + (", tests/env/delay_proxy.py" if scenario.shaped else "")
        yield
        return
    rates = list(link_rates) or [scenario.link_bytes_s] * scenario.mirrors
    loopback = bench_.origin
    with contextlib.ExitStack() as stack:
        state = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="far-", dir=bench_.work))
        )
        long = stack.enter_context(line.between(rtt_s=scenario.rtt_ms / 1000, rates=rates))
        with line.inside(long.far):
            far = stack.enter_context(
                origin.running(state, bench_.files, hosts=line.addresses(len(rates)))
            )
        far.proxies.append(long.process)
        stack.enter_context(line.inside(long.near))
        bench_.origin, bench_.path = far, long.how
        try:
            yield
        finally:
            bench_.origin = loopback


def measure(
    bench_: Bench,
    scenario: Scenario,
    rivals: Sequence[Rival],
    *,
    rounds: int,
    say: Say,
    link_rates: Sequence[int] = (),
    with_floors: bool = True,
) -> Outcome:
    """Warm every contestant up once (a failure excludes it), then run *rounds* shuffled rounds.

    Up to as many rounds again are added while a contestant has fewer than *rounds* runs that
    were not disturbed.
    """
    outcome = Outcome(scenario=scenario, image=bench_.payload(scenario))
    with prepared(bench_, scenario, link_rates=link_rates) as job:
        outcome.path = bench_.path
        playing = _warm_up(bench_, rivals, job, outcome, say)
        shuffler = random.Random(_ORDER_SEED)
        for turn in range(2 * rounds):
            missing = [rival for rival in playing if _counted(outcome, rival) < rounds]
            if not missing:
                break
            order = list(playing)
            shuffler.shuffle(order)
            for rival in order:
                run = run_once(bench_, rival, job, turn, timeout_s=outcome.limit_s)
                outcome.runs.append(run)
                say(_line(run))
                if run.cost.failure:
                    _out(bench_, outcome, run, f"round {turn}")
                    playing.remove(rival)
                elif rival.name == "fastdl" and with_floors:
                    outcome.floors.append(_floors_beside(run, job, outcome))
    return outcome


def _warm_up(
    bench_: Bench, rivals: Sequence[Rival], job: Job, outcome: Outcome, say: Say
) -> list[Rival]:
    playing = []
    for rival in rivals:
        if reason := rival.refuses(job.scenario) or bench_.hopeless.get(rival.name):
            outcome.skipped[rival.name] = reason
            continue
        run = run_once(bench_, rival, job, -1, timeout_s=outcome.limit_s)
        say("warm-up " + _line(run))
        if run.cost.failure:
            _out(bench_, outcome, run, "warm-up")
            continue
        if rival.name == "fastdl":
            patience = max(_PATIENCE_S, _PATIENCE * run.durable_s)
            outcome.limit_s = min(bench_.timeout_s, patience)
        outcome.versions[rival.name] = rival.versions()
        outcome.flags[rival.name] = _flags(rival, job)
        playing.append(rival)
    return playing


def _out(bench_: Bench, outcome: Outcome, run: Run, when: str) -> None:
    """A contestant failed: it is out of this scenario, and of all if it hangs."""
    outcome.failed[run.contestant] = f"{when}: {run.cost.failure}"
    if run.cost.failure and run.cost.failure.startswith(meter.TIME_LIMIT):
        reason = f"ran into the time limit in {outcome.scenario.name}"
        bench_.hopeless[run.contestant] = reason


def _flags(rival: Rival, job: Job) -> list[str]:
    """The command lines as they ran, with this run's paths and addresses taken out."""
    _empty(job.scratch)
    lines = []
    for step in rival.steps(job):
        commands = (*step.services, *step.pipeline, *step.beside)
        lines.append(" | ".join(" ".join(command.argv) for command in commands))
    words = [(url, f"URL{index or ''}") for index, url in enumerate(job.urls)]
    words += [(str(job.target.path), "TARGET"), (str(job.scratch), "SCRATCH")]
    words += [(str(job.target.path.parent), "FOLDER"), (str(job.cacert), "CA")]
    words += [(job.sha256, "HEX"), (sys.executable, "python3")]
    for old, new in words:
        lines = [line.replace(old, new) for line in lines]
    return lines


def _counted(outcome: Outcome, rival: Rival) -> int:
    return sum(run.contestant == rival.name and run.counts() for run in outcome.runs)


def _line(run: Run) -> str:
    return (
        f"{run.contestant:<16} {run.durable_s:7.3f} s  {run.cost.cpu_s:6.3f} cpu s  "
        f"{run.cost.peak_bytes >> 20:5d} MiB  others {run.disturbed:4.0%}  {run.cost.failure or ''}"
    )


def _floors_beside(run: Run, job: Job, outcome: Outcome) -> dict[str, float]:
    """The floors in *run*'s round: a machine is not equally fast in every round.

    Seconds for each floor; the processor floor is all work of fastdl, origin and kernel, spread
    evenly over all cores.
    """
    found = floors.measure(job.target, job.source_bytes, hashed=job.hashed)
    work = run.cost.cpu_s + run.origin_cpu_s + run.kthread_cpu_s
    found["cpu_s"] = round(work / len(os.sched_getaffinity(0)), 4)
    if link := outcome.scenario.link_bytes_s * outcome.scenario.mirrors:
        share = _PAYLOAD if outcome.scenario.path == "netns" else 1.0
        found["link_s"] = round(outcome.image.source_bytes / (link * share), 4)
    return {"round": run.turn, **found}


def _floor(outcome: Outcome) -> dict[str, Any]:
    """Medians of the floors, and how far above the highest one fastdl was in the same round."""
    if not outcome.floors:
        return {}
    names = [name for name in outcome.floors[0] if name != "round"]
    mine = _by_turn(outcome.runs, "fastdl", "durable_s")
    above = [mine[int(found["round"])] / max(found[n] for n in names) for found in outcome.floors]
    middle = {name: statistics.median(found[name] for found in outcome.floors) for name in names}
    return {**middle, "ratio": stats.summary(above), "rounds": outcome.floors}


def as_dict(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """The outcome as one JSON object (the format of benchmarks/results)."""
    scenario = outcome.scenario
    contestants = {}
    for name in outcome.versions:
        runs = [run for run in outcome.runs if run.contestant == name and not run.cost.failure]
        good = [run for run in runs if run.counts()]
        used = good or runs  # a table with a mark is better than no table
        gb = outcome.image.source_bytes / 1e9
        contestants[name] = {
            "versions": outcome.versions[name],
            "flags": outcome.flags[name],
            "durable_s": stats.summary([run.durable_s for run in used]),
            "cpu_s_per_gb": stats.summary([run.cost.cpu_s / gb for run in used]),
            "peak_bytes": max((run.cost.peak_bytes for run in used), default=0),
            "disturbed_runs": len(runs) - len(good),
            "only_disturbed": bool(runs) and not good,
            "runs": [run.as_dict() for run in runs],
        }
    return {
        "scenario": scenario.name,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(folder),
        "path": outcome.path,
        "source_bytes": outcome.image.source_bytes,
        "virtual_bytes": outcome.image.virtual_bytes,
        "floor": _floor(outcome),
        "contestants": contestants,
        "ratios": _ratios(outcome),
        "skipped": outcome.skipped,
        "failed": outcome.failed,
    }


def _ratios(outcome: Outcome) -> dict[str, Any]:
    """rival / fastdl in the same round; disturbed runs count only if there are no others."""
    found: dict[str, Any] = {}
    for counted in (True, False):
        used = [
            run for run in outcome.runs if not run.cost.failure and (run.counts() or not counted)
        ]
        for name in outcome.versions:
            if name == "fastdl" or name in found:
                continue
            pair = {
                key: stats.paired(_by_turn(used, "fastdl", key), _by_turn(used, name, key))
                for key in ("durable_s", "cpu_s")
            }
            if pair["durable_s"]:
                found[name] = {
                    "durable": stats.summary(pair["durable_s"]),
                    "cpu": stats.summary(pair["cpu_s"]),
                    "only_disturbed": not counted,
                }
    return found


def _by_turn(runs: list[Run], name: str, key: str) -> dict[int, float]:
    return {
        run.turn: run.durable_s if key == "durable_s" else run.cost.cpu_s
        for run in runs
        if run.contestant == name
    }
