# SPDX-License-Identifier: Apache-2.0
"""Every rival must really do the job it is compared in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import meter, origin, runner
from benchmarks.meter import Command, Step
from benchmarks.rivals import Job, Rival, all_rivals
from benchmarks.scenarios import parse_scenario


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runner.Bench]:
    if reason := origin.missing():
        pytest.skip(reason)
    with runner.bench(tmp_path_factory.mktemp("bench"), timeout_s=60) as opened:
        yield opened


@pytest.mark.parametrize("name", ["http-4MiB-raw-file-sha256", "http-4MiB-raw-file-none"])
@pytest.mark.parametrize(
    "rival", [r for r in all_rivals() if r.name != "fastdl"], ids=lambda r: r.name
)
def test_a_rival_lands_the_right_bytes(bench: runner.Bench, rival: Rival, name: str) -> None:
    """A contestant that does less than the others must not be compared with them."""
    scenario = parse_scenario(name)
    if reason := rival.refuses(scenario):
        pytest.skip(reason)
    with runner.prepared(bench, scenario) as job:
        run = runner.run_once(bench, rival, job, 0)
    if rival.name == "qemu-img-url" and run.cost.failure == meter.TIME_LIMIT:
        pytest.skip("qemu's curl driver waits for ever now and then (seen with qemu 7.2)")
    assert run.cost.failure is None
    assert run.sent_bytes >= scenario.size


class _Liar(Rival):
    """Claims success with what it was told to print and write."""

    name = "liar"
    needs = ()

    def __init__(self, *, says: str, writes: bytes) -> None:
        self._says = says
        self._writes = writes

    def steps(self, job: Job) -> list[Step]:
        source = job.scratch / "bytes"
        source.write_bytes(self._writes)
        says = self._says.replace("HEX", job.sha256)
        copy = Command(argv=("cp", str(source), str(job.target.path)))
        return [Step(pipeline=(copy,)), Step(pipeline=(Command(argv=("echo", says)),))]


@pytest.mark.parametrize(
    ("says", "writes", "failure"),
    [
        ("HEX", b"wrong" * 1000, "wrong bytes on the target"),
        ("no digest", b"", "did not report the digest of the source"),
    ],
)
def test_wrong_bytes_and_missing_digests_are_failures(
    bench: runner.Bench, says: str, writes: bytes, failure: str
) -> None:
    """The output of every run is checked, not only that it ended well."""
    with runner.prepared(bench, parse_scenario("http-4MiB-raw-file-sha256")) as job:
        run = runner.run_once(bench, _Liar(says=says, writes=writes), job, 0)
    assert run.cost.failure == failure


def test_the_wipe_leaves_nothing_of_the_former_run(bench: runner.Bench, tmp_path: Path) -> None:
    """A contestant that writes nothing must not pass on what the one before it wrote."""
    with runner.prepared(bench, parse_scenario("http-4MiB-raw-file-none")) as job:
        job.target.path.write_bytes(b"x" * 8192)
        assert job.target.cached_bytes() == 8192
        job.target.wipe()
        assert not job.target.path.exists()


class _Hangs(Rival):
    """Never ends."""

    name = "hangs"
    needs = ()

    def steps(self, job: Job) -> list[Step]:
        return [Step(pipeline=(Command(argv=("sleep", "60")),))]


def test_a_contestant_that_hangs_costs_its_time_limit_once(
    bench: runner.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that runs into the limit does so again: a suite of many scenarios skips it."""
    monkeypatch.setattr(bench, "timeout_s", 0.2)
    scenario = parse_scenario("http-1MiB-raw-file-none")
    first, second = (
        runner.measure(bench, scenario, [_Hangs()], rounds=1, say=lambda _: None) for _ in range(2)
    )
    assert first.failed == {"hangs": "warm-up: time limit reached"}
    assert second.skipped == {"hangs": f"ran into the time limit in {scenario.name}"}
