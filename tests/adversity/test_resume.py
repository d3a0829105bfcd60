# SPDX-License-Identifier: Apache-2.0
"""Does a job that was killed, stopped or tampered with ever cost more than a little time?

Real kills of the real command in the middle of a transfer: from the server, at a known
number of sent bytes, so that no clock decides where. Cases R01, R04, R06-R08, R10, M14.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdl.lab.metalink import metalink_of
from tests.adversity.places import MIB, loop_device
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

SIZE = 24 * MIB
RANGE = 8 * MIB
"""At most so much a connection is fetched twice after a kill (the README's promise)."""
IN_FLIGHT = 4 * MIB
"""Bytes that the server counts as sent while they lie in the sockets' buffers."""
RATE = 30_000_000
"""Slow enough that a flush on a busy disk is no slower than a range."""
CONTENT = pseudo_random(7, SIZE)
OTHER = pseudo_random(8, SIZE)


class Job:
    """One command line against one origin: run it, kill it at a byte, look at its target."""

    def __init__(self, folder: Path, sink: str, device: str | None) -> None:
        self.folder = folder
        self.sink = sink
        (folder / "pool").mkdir()
        self.target = Path(device) if device else folder / "pool" / "image.img"
        self.home = folder / "home"
        self.resource = Resource(
            versions=[
                Version(content=CONTENT),
                Version(content=OTHER, etag='"v2"'),
                Version(content=OTHER[: SIZE - 5 * MIB], etag='"v3"'),
            ],
            rules=[Rule(rate=RATE)],
        )
        self.origin = FaultOrigin({"/image.raw": self.resource})

    def words(self, *more: str) -> list[str]:
        """The arguments; the same each time, as a caller that tries again would give them."""
        return [
            *("get", self.origin.url("/image.raw"), "-o", str(self.target), "--json"),
            *("--progress", "none", "--max-connections", "1", "--retry", "2"),
            *("--connect-timeout", "2", "--stall-timeout", "5", *more),
        ]

    def interrupt(self, at: int, number: signal.Signals, *more: str) -> Outcome:
        """Start, signal when the origin has sent *at* bytes of this run, wait for the end."""
        before = self.origin.sent
        with running_fastdl(self.words(*more), home=self.home) as run:
            self._when_sent(before + at, lambda: run.send(number))
            return run.finish(timeout=30)

    def _when_sent(self, at: int, do: Callable[[], None]) -> None:
        done = False

        def watch(sent: int) -> None:
            nonlocal done
            if sent >= at and not done:
                done = True
                do()

        self.origin.on_sent = watch

    def complete(self, *more: str) -> Outcome:
        """Run to the end without a disturbance and at full speed."""
        self.origin.on_sent = None
        self.resource.rules = []
        return run_fastdl(self.words(*more), home=self.home, timeout=60)

    def check_holds(self, content: bytes) -> None:
        """The target holds exactly *content*, and beside it nothing is left."""
        with self.target.open("rb") as target:
            assert target.read(len(content)) == content, "exit 0, but other bytes"
        if self.sink == "file":
            assert self.target.stat().st_size == len(content)
            assert [p.name for p in (self.folder / "pool").iterdir()] == [self.target.name]

    def check_not_published(self) -> None:
        """After a kill: no file of that name; on a device, no valid head and tail."""
        if self.sink == "file":
            assert not self.target.exists()
            return
        with self.target.open("rb") as device:
            head = device.read(MIB)
            device.seek(-MIB, os.SEEK_END)
            tail = device.read(MIB)
        assert not any(head) or head == OLD_MIB
        assert not any(tail) or tail == OLD_MIB

    def journal(self) -> Path:
        """The journal that the killed job left."""
        places = [*(self.folder / "pool").rglob("*"), *self.home.rglob("*")]
        found = [p for p in places if p.is_file() and "journal" in p.name]
        assert len(found) == 1, f"journals: {found}; files: {places}"
        return found[0]

    def part(self) -> Path:
        """Where the body of the killed job lies."""
        if self.sink == "loop":
            return self.target
        found = [p for p in (self.folder / "pool").iterdir() if "part" in p.name]
        assert len(found) == 1, found
        return found[0]


OLD_MIB = (b"\xa5old tenant data" * 65536)[:MIB]


@pytest.fixture(params=["file", "loop"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    """A job onto a file, and one onto a loop device full of old data."""
    with contextlib.ExitStack() as stack:
        device = None
        if request.param == "loop":
            device = stack.enter_context(loop_device(tmp_path, {"size": SIZE + 8 * MIB}, SIZE))
        made = Job(tmp_path, request.param, device)
        stack.enter_context(made.origin)
        yield made


@pytest.mark.parametrize("point", range(25))
def test_a_killed_job_resumes_and_fetches_little_twice(job: Job, point: int) -> None:
    """R01: kill -9 anywhere costs at most one range a connection, and never a wrong byte."""
    at = random.Random(f"kill-{point}").randrange(SIZE)
    killed = job.interrupt(at, signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    job.check_not_published()
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(CONTENT)
    assert job.origin.sent <= SIZE + RANGE + IN_FLIGHT, (at, done.json)
    assert done.json["fetched_bytes"] + done.json["resumed_bytes"] >= SIZE


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_before_the_first_and_after_the_last_byte_is_no_different(
    job: Job, seed: int
) -> None:
    """R01: the edges: nothing fetched yet, or everything fetched and not yet published."""
    at = [0, 1, SIZE - 1, SIZE][seed]
    job.interrupt(at, signal.SIGKILL)
    done = job.complete("--overwrite", "file")
    assert done.code == 0, done
    job.check_holds(CONTENT)


def test_several_kills_in_a_row_still_converge(job: Job) -> None:
    """R03: each attempt keeps what the earlier ones have made durable."""
    for _ in range(3):
        assert job.interrupt(7 * MIB, signal.SIGKILL).code == -signal.SIGKILL
        job.check_not_published()
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(CONTENT)
    assert job.origin.sent <= SIZE + 3 * (RANGE + IN_FLIGHT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_ends_with_130_and_the_next_run_resumes(
    job: Job, number: signal.Signals
) -> None:
    """R10: who cancels is told so, and what was fetched is kept."""
    stopped = job.interrupt(15 * MIB, number)
    assert stopped.code == 130, stopped
    assert stopped.classes == ["CANCELLED"]
    assert stopped.json["error"]["code"] == 130
    assert "Traceback" not in stopped.stderr
    job.check_not_published()
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(CONTENT)
    assert done.json["resumed_bytes"] > 0
    assert job.origin.sent <= SIZE + RANGE + IN_FLIGHT


def test_a_stopped_and_continued_job_ends_right(job: Job) -> None:
    """R10: a suspended host is no failure."""
    with running_fastdl(job.words(), home=job.home) as run:
        job._when_sent(5 * MIB, lambda: run.send(signal.SIGSTOP))
        job.origin.wait_for(lambda: job.origin.sent >= 5 * MIB)
        run.send(signal.SIGCONT)
        done = run.finish(timeout=60)
    assert done.code == 0, done
    job.check_holds(CONTENT)


def test_without_resume_nothing_is_kept_or_used(job: Job) -> None:
    """``--no-resume`` starts from the first byte, whatever lies there."""
    job.interrupt(15 * MIB, signal.SIGKILL)
    before = job.origin.sent
    done = job.complete("--no-resume")
    assert done.code == 0, done
    job.check_holds(CONTENT)
    assert done.json["resumed_bytes"] == 0
    assert job.origin.sent - before >= SIZE


def _flip(seed: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        edited = bytearray(data)
        edited[random.Random(f"flip-{seed}").randrange(len(edited))] ^= 1 << (seed % 8)
        return bytes(edited)

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{f"flip-{seed}": _flip(seed) for seed in range(8)},
    "empty": lambda data: b"",
    "one-byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "torn-tail": lambda data: data[:-3],
    "zeros": lambda data: bytes(len(data)),
    "zero-tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "garbage": lambda data: pseudo_random(3, max(1, len(data))),
    "twice": lambda data: data + data,
    "foreign": lambda data: b"\x7fELF" + data[4:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_never_makes_a_wrong_image(job: Job, damage: str) -> None:
    """R04: what the journal says is used only where it proves itself; else all is fetched.

    No checksum is given: the journal's own checks must be enough.
    """
    job.interrupt(15 * MIB, signal.SIGKILL)
    journal = job.journal()
    journal.write_bytes(DAMAGE[damage](journal.read_bytes()))
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(CONTENT)


@pytest.mark.parametrize(("first", "then"), [("256K", "1M"), ("2M", "64K")])
def test_a_resume_with_another_block_size_goes_on_with_the_first(
    job: Job, first: str, then: str
) -> None:
    """R01: what is on the target is worth more than a tuning parameter."""
    job.interrupt(18 * MIB, signal.SIGKILL, "--block-size", first)
    done = job.complete("--block-size", then)
    assert done.code == 0, done
    job.check_holds(CONTENT)
    assert done.json["resumed_bytes"] > 0, done
    assert done.json["warnings"] == [w for w in done.json["warnings"] if "beginning" not in w]


def test_a_journal_of_another_job_is_not_believed(job: Job) -> None:
    """R04: the journal names its source and target; another's is worth nothing."""
    job.interrupt(15 * MIB, signal.SIGKILL)
    kept = job.journal().read_bytes()
    job.resource.now = 1
    job.complete("--overwrite", "file")
    if job.sink == "file":
        job.target.unlink()
    job.interrupt(3 * MIB, signal.SIGKILL)
    job.journal().write_bytes(kept)
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(OTHER)


@pytest.mark.parametrize("version", [2, 3])
def test_a_source_that_changed_while_the_job_was_down_is_fetched_anew(
    job: Job, version: int
) -> None:
    """R06: bytes of two versions are never joined; ETag alone (2), and the size too (3)."""
    job.interrupt(15 * MIB, signal.SIGKILL)
    job.resource.now = version - 1
    done = job.complete()
    assert done.code == 0, done
    assert done.json["resumed_bytes"] == 0
    job.check_holds(job.resource.versions[version - 1].content)


def test_a_resume_from_another_mirror_is_right(job: Job) -> None:
    """R06: the mirror is gone, another one with its own validator takes over."""
    digest = ("--checksum", f"sha-256:{_sha256(CONTENT)}")
    job.interrupt(15 * MIB, signal.SIGKILL, *digest)
    with FaultOrigin({"/image.raw": Resource.of(CONTENT, etag='"elsewhere"')}) as other:
        words = [other.url("/image.raw") if "/image.raw" in w else w for w in job.words(*digest)]
        done = run_fastdl(words, home=job.home, timeout=60)
    assert done.code == 0, done
    job.check_holds(CONTENT)


def _truncate(path: Path) -> None:
    os.truncate(path, 1000)


def _modify(path: Path) -> None:
    with path.open("r+b") as part:
        part.seek(5 * MIB)
        part.write(b"not what was downloaded")


def _replace(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


@pytest.mark.parametrize("tamper", [Path.unlink, _truncate, _modify, _replace])
def test_a_part_that_changed_while_the_job_was_down_is_not_trusted(
    job: Job, tamper: Callable[[Path], None]
) -> None:
    """R07: deleted, cut, modified or replaced: each byte is checked before it is reused."""
    if job.sink == "loop" and tamper is not _modify:
        pytest.skip("a device cannot be deleted, cut or renamed")
    job.interrupt(15 * MIB, signal.SIGKILL)
    tamper(job.part())
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(CONTENT)


def second_beside_first(job: Job) -> tuple[Outcome, Outcome]:
    """(second, first): the second runs to its end while the first waits for its origin."""
    held = Rule(when=When(start_min=1), stall_at=0)
    job.origin.on_sent = None
    job.resource.rules = [held]
    before = len(job.origin.requests)
    words = job.words("--stall-timeout", "30")
    with running_fastdl(words, home=job.home) as first:
        job.origin.wait_for(lambda: any(r.start for r in job.origin.requests[before:]))
        second = run_fastdl(words, home=job.home, timeout=60)
        job.resource.rules = []
        job.origin.release.set()
        return second, first.finish(timeout=60)


def test_two_processes_on_one_target_do_not_mix(job: Job) -> None:
    """R08, S11: the second is told that the target is busy; the first is not disturbed."""
    second, first = second_beside_first(job)
    assert (second.code, second.classes) == (32, ["SINK_BUSY"]), second
    assert first.code == 0, first
    job.check_holds(CONTENT)


def test_two_resumes_of_one_job_do_not_mix(job: Job) -> None:
    """R08: the same with a journal there already."""
    job.interrupt(12 * MIB, signal.SIGKILL)
    second, first = second_beside_first(job)
    assert (second.code, second.classes) == (32, ["SINK_BUSY"]), second
    assert first.code == 0, first
    assert first.json["resumed_bytes"] > 0
    job.check_holds(CONTENT)


def test_a_metalink_that_names_another_image_starts_anew(job: Job) -> None:
    """M14: the journal belongs to one selected entry, not to the metalink's address."""

    def metalink(content: bytes, path: str) -> Resource:
        document = metalink_of(content, [job.origin.url(path)])
        return Resource.of(
            document.encode(), etag=f'"{path}"', content_type="application/metalink4+xml"
        )

    job.origin.resources["/other.raw"] = Resource.of(OTHER)
    job.origin.resources["/x.meta4"] = metalink(CONTENT, "/image.raw")
    words = [w.replace("/image.raw", "/x.meta4") for w in job.words()]
    with running_fastdl(words, home=job.home) as run:
        job._when_sent(12 * MIB, lambda: run.send(signal.SIGKILL))
        run.finish(timeout=30)
    job.origin.on_sent = None
    job.origin.resources["/x.meta4"] = metalink(OTHER, "/other.raw")
    done = run_fastdl(words, home=job.home, timeout=60)
    assert done.code == 0, done
    job.check_holds(OTHER)


def test_an_origin_without_strong_validator_starts_anew(job: Job) -> None:
    """H19: nothing proves that the bytes are of one version, so none are joined."""
    weak = [Version(content=c, etag='W/"same"', last_modified=None) for c in (CONTENT, OTHER)]
    job.resource.versions = weak
    job.interrupt(15 * MIB, signal.SIGKILL)
    job.resource.now = 1
    done = job.complete()
    assert done.code == 0, done
    job.check_holds(OTHER)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
