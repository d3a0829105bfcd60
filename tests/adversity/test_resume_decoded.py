# SPDX-License-Identifier: Apache-2.0
"""Does a killed job whose source is decoded on its way resume, and is what it kept ever trusted?

Real kills, as in ``test_resume``: at a known number of sent bytes. Cases R01, R03, R04, R06, R07.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from fastdl.engine import journal
from fastdl.engine.staging import SUFFIX
from tests.env import seam
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.faults import Rule, When
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, run
from tests.env.landing import PACK, sha256
from tests.env.loopdev import loop_device
from tests.env.nbd import nbdkit
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random
from tests.env.slow import slow
from tests.env.tmpfs import tmpfs

pytestmark = slow

WINDOW = 12 * MIB
"""What a kill may cost: a range of a connection, and what lies in sockets' buffers."""
RATE = 30_000_000
FULL = bool(os.environ.get("FASTDL_FULL_SWEEP"))
KINDS = ("qcow2", "qcow2-packed", "gz", "xz", "zst", "qcow2.gz")
TARGETS = ("file", "device", "nbd")
CASES = [
    (kind, target)
    for number, kind in enumerate(KINDS)
    for place, target in enumerate(TARGETS)
    if FULL or (number + place) % 3 == 0 or (kind == "qcow2" and target == "device")
]


class Source(NamedTuple):
    """A source as it is served, and the disk in it."""

    file: bytes
    disk: bytes


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """Sources by kind, each made when it is first wanted: some 24 MiB that hardly pack."""
    folder = tmp_path_factory.mktemp("sources")
    made: dict[str, Source] = {}

    def qcow2(disk: bytes, *words: str) -> bytes:
        if not HAVE_QEMU:
            pytest.skip(NEED_QEMU)
        raw, path = folder / "raw", folder / "qcow2"
        raw.write_bytes(disk)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, raw, path)
        return path.read_bytes()

    def make(kind: str) -> Source:
        noise = pseudo_random(17, 23 * MIB + 512 * 7)
        if kind == "qcow2":
            return Source(qcow2(noise), noise)
        # Every fourth part of a cluster is zero, so that clusters are worth packing.
        disk = b"".join(
            noise[at : at + 48 * 1024].ljust(64 * 1024, b"\0")
            for at in range(0, len(noise), 48 * 1024)
        )
        if kind == "qcow2-packed":
            return Source(qcow2(disk, "-c"), disk)
        outer = kind.rpartition(".")[2]
        if outer not in PACK:
            pytest.skip(f"nothing here packs {outer}")
        inner = qcow2(noise) if kind.startswith("qcow2") else noise
        return Source(PACK[outer](inner), noise)

    def source(kind: str) -> Source:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return source


class Decoded:
    """One command line that decodes *source* onto a target of *sort*, and its origin."""

    def __init__(self, folder: Path, source: Source, target: str, shown: Path) -> None:
        self.folder = folder
        self.source = source
        self.target = target
        self.shown = shown
        self.home = folder / "home"
        self.resource = Resource(
            versions=[Version(content=source.file, etag=f'"v{n}"') for n in (1, 2)],
            rules=[Rule(rate=RATE)],
        )
        self.origin = FaultOrigin({"/image": self.resource})

    def words(self, *more: str) -> list[str]:
        return [
            *("get", self.origin.url("/image"), "-o", self.target, "--target-format", "raw"),
            *("--json", "--progress", "none", "--max-connections", "1", "--retry", "2", *more),
        ]

    def killed(self, at: int, *more: str, number: signal.Signals = signal.SIGKILL) -> Outcome:
        """Stopped when the origin has sent *at* bytes of this run."""
        before, done = self.origin.sent, False
        with running_fastdl(self.words(*more), home=self.home) as running:

            def watch(sent: int) -> None:
                nonlocal done
                if sent >= before + at and not done:
                    done = True
                    running.send(number)

            self.origin.on_sent = watch
            ended = running.finish(timeout=60)
        self.origin.on_sent = None
        assert ended.code in (-signal.SIGKILL, 130), ended
        assert not self.shows_anything()
        return ended

    def complete(
        self, *more: str, prefix: Sequence[str] = (), rules: Sequence[Rule] = ()
    ) -> Outcome:
        """Run to the end, at full speed without *rules*."""
        self.resource.rules = list(rules)
        return run_fastdl(self.words(*more), home=self.home, prefix=list(prefix), timeout=60)

    def shows_anything(self) -> bool:
        """Whether the target could be taken for an image."""
        if not self.shown.exists():
            return False
        with self.shown.open("rb") as shown:
            return any(shown.read(MIB))

    def check_holds(self) -> None:
        """The target is the disk, and nothing is left of what was kept."""
        disk = self.source.disk
        with self.shown.open("rb") as shown:
            assert shown.read(len(disk)) == disk, "exit 0, but other bytes"
        assert self.kept() == []
        assert [p for p in self.folder.rglob("*") if SUFFIX in p.name] == []

    def kept(self) -> list[Path]:
        """The file in which the source is kept, where there is one."""
        return sorted(self.folder.rglob(f".*{SUFFIX}/spool"))


@pytest.fixture
def decoded(
    tmp_path: Path, sources: Callable[[str], Source], request: pytest.FixtureRequest
) -> Iterator[Decoded]:
    """The job of the test's parameter: (kind, target)."""
    kind, sort = request.param
    source = sources(kind)
    size = len(source.disk) + MIB
    with contextlib.ExitStack() as stack:
        target, shown = str(tmp_path / "pool" / "image"), tmp_path / "pool" / "image"
        shown.parent.mkdir()
        if sort == "device":
            target = stack.enter_context(loop_device(tmp_path, size=size - size % 512)).path
            shown = Path(target)
        elif sort == "nbd":
            shown = tmp_path / "nbd.img"
            shown.write_bytes(bytes(size))
            target = stack.enter_context(nbdkit(tmp_path, ["file", str(shown)])).uri
        made = Decoded(tmp_path, source, target, shown)
        stack.enter_context(made.origin)
        yield made


def onto(*kinds: tuple[str, str]) -> pytest.MarkDecorator:
    ids = ["-".join(kind) for kind in kinds]
    return pytest.mark.parametrize("decoded", kinds, ids=ids, indirect=True)


@onto(*CASES)
def test_a_killed_job_fetches_little_twice(
    decoded: Decoded, request: pytest.FixtureRequest
) -> None:
    """R01: what was kept is digested and decoded again, and the rest is fetched."""
    file = decoded.source.file
    rng = random.Random(request.node.name)
    for _ in range(8 if FULL else 1):
        more = ["--checksum", f"sha-256:{sha256(file)}"] if rng.random() < 0.5 else []
        before = decoded.origin.sent
        at = int(len(file) * (0.75 + 0.2 * rng.random()))
        decoded.resource.rules = [Rule(rate=RATE)]
        decoded.killed(at, *more)
        done = decoded.complete(*more)
        assert done.code == 0, done
        decoded.check_holds()
        assert decoded.origin.sent - before <= len(file) + WINDOW, (at, done)
        assert done.json["resumed_bytes"] >= at - WINDOW
        if decoded.target == str(decoded.shown) and decoded.shown.is_file():
            decoded.shown.unlink()
        elif FULL:
            with decoded.shown.open("r+b", buffering=0) as shown:
                shown.write(bytes(MIB))


@onto(("qcow2-packed", "file"), ("gz", "device"))
def test_several_kills_in_a_row_still_converge(decoded: Decoded) -> None:
    """R03: each run keeps what the earlier ones kept."""
    size = len(decoded.source.file)
    for _ in range(3):
        decoded.killed(7 * MIB)
    done = decoded.complete()
    assert done.code == 0, done
    decoded.check_holds()
    assert decoded.origin.sent <= size + 3 * WINDOW
    assert done.json["resumed_bytes"] > 0


@onto(("qcow2", "device"))
def test_a_polite_signal_keeps_what_came(decoded: Decoded) -> None:
    """R10: 130, and the next run resumes."""
    stopped = decoded.killed(18 * MIB, number=signal.SIGTERM)
    assert stopped.code == 130, stopped
    done = decoded.complete()
    assert done.code == 0, done
    decoded.check_holds()
    assert done.json["resumed_bytes"] >= 18 * MIB - WINDOW


@onto(("gz", "file"))
def test_a_lost_origin_keeps_what_came_and_a_wrong_digest_does_not(decoded: Decoded) -> None:
    """R01: only what may still be right is worth a resume."""
    gone = Rule(when=When(start_min=12 * MIB), head_cut=0, reset=True)
    decoded.resource.rules = [gone, Rule(rate=RATE)]
    lost = run_fastdl(decoded.words("--retry", "1"), home=decoded.home, timeout=60)
    assert lost.code in (10, 11, 12), lost
    assert decoded.kept()
    wrong = decoded.complete("--checksum", f"sha-256:{'0' * 64}")
    assert wrong.code == 21, wrong
    assert not decoded.shown.exists()
    assert decoded.kept() == []


@onto(("qcow2-packed", "file"))
@pytest.mark.parametrize("damage", ["flip", "short", "gone", "journal", "journal-gone"])
def test_what_was_kept_and_changed_is_fetched_again(decoded: Decoded, damage: str) -> None:
    """R04, R07: no checksum is given; the journal's own checks are enough."""
    decoded.killed(18 * MIB)
    (kept,) = decoded.kept()
    path = kept.with_name("spool.journal") if damage.startswith("journal") else kept
    if damage.endswith("gone"):
        path.unlink()
    elif damage == "short":
        os.truncate(path, 5 * MIB)
    else:
        data = bytearray(path.read_bytes())
        for at in range(len(data) // 4, len(data), len(data) // 4):
            data[at] ^= 0x40
        path.write_bytes(data)
    done = decoded.complete()
    assert done.code == 0, done
    decoded.check_holds()


@onto(("gz", "file"), ("qcow2", "device"))
def test_a_forged_journal_is_found_out_by_the_digest(decoded: Decoded) -> None:
    """R04: bytes and journal agree, and are wrong: nothing shows, and the next run starts over."""
    checked = ("--checksum", f"sha-256:{sha256(decoded.source.file)}")
    decoded.killed(18 * MIB, *checked)
    (kept,) = decoded.kept()
    path = kept.with_name("spool.journal")
    found = journal.parse(path.read_bytes())
    data = bytearray(kept.read_bytes())
    at = found.records[len(found.records) // 2].offset + 12_345
    data[at] ^= 1
    kept.write_bytes(data)
    forged = journal.encode_header(found.header) + b"".join(
        journal.encode_record(
            number,
            record._replace(
                digest=journal.digest_of(data[record.offset : record.offset + record.length])
            ),
            found.seed,
        )
        for number, record in enumerate(found.records)
    )
    path.write_bytes(forged)
    failed = decoded.complete(*checked)
    assert failed.code in (21, 23), failed
    assert not decoded.shows_anything()
    assert decoded.kept() == []
    done = decoded.complete(*checked)
    assert (done.code, done.json["resumed_bytes"]) == (0, 0), done
    decoded.check_holds()


@onto(("qcow2", "device"))
def test_a_source_that_changed_is_fetched_again(decoded: Decoded) -> None:
    """R06: without a checksum another tag is another version."""
    decoded.killed(18 * MIB)
    decoded.resource.now = 1
    done = decoded.complete()
    assert (done.code, done.json["resumed_bytes"]) == (0, 0), done
    decoded.check_holds()


@onto(("gz", "file"))
def test_without_resume_nothing_is_kept_or_used(decoded: Decoded) -> None:
    """``--no-resume`` starts over, and clears what an earlier run kept."""
    decoded.killed(18 * MIB)
    done = decoded.complete("--no-resume")
    assert (done.code, done.json["resumed_bytes"]) == (0, 0), done
    decoded.check_holds()


@onto(("gz", "file"))
def test_a_folder_that_cannot_be_flushed_does_not_stop_what_runs(decoded: Decoded) -> None:
    """S01: the journal's own flush is the first in there, its folder's the second."""
    prefix = seam.loaded(nth=2, call="fsync", do=str(errno.EIO), only=SUFFIX)
    done = decoded.complete(prefix=prefix, rules=[Rule(rate=RATE)])
    assert done.code == 0, done
    assert any("cannot be resumed" in warning for warning in done.json["warnings"]), done
    decoded.check_holds()


@onto(("gz", "file"))
@pytest.mark.parametrize(("call", "number"), [("pwrite", errno.ENOSPC), ("fdatasync", errno.EIO)])
def test_what_cannot_be_kept_is_no_reason_to_fail(decoded: Decoded, call: str, number: int) -> None:
    """S01: the download needs only its target."""
    prefix = seam.loaded(nth=1, call=call, do=str(number), only=f"{SUFFIX}/spool", ever=True)
    done = decoded.complete(prefix=prefix, rules=[Rule(rate=RATE)])  # faster, nothing is kept
    assert done.code == 0, done
    decoded.check_holds()
    assert call == "pwrite" or any("cannot be resumed" in w for w in done.json["warnings"])


def test_a_source_is_not_kept_where_that_takes_too_much_room(
    tmp_path: Path, sources: Callable[[str], Source]
) -> None:
    """A small disk is for the image."""
    source = sources("gz")
    pool = tmp_path / "pool"
    resource = Resource.of(source.file)
    resource.rules = [Rule(rate=RATE)]  # faster, nothing is kept
    with tmpfs(pool, "60m"), FaultOrigin({"/i": resource}) as origin:
        target = pool / "image"
        words = ["get", origin.url("/i"), "-o", str(target), "--target-format", "raw", "--json"]
        done = run_fastdl(words, home=tmp_path / "home", timeout=60)
        assert done.code == 0, done
        assert target.read_bytes() == source.disk
        assert any("4 times its size" in text for text in done.json["warnings"])
        assert [path.name for path in pool.iterdir()] == ["image"]
