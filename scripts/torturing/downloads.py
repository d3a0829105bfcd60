# SPDX-License-Identifier: Apache-2.0
"""Downloads that are killed at a system call, or whose calls fail, come short, or lie.

After each run, and after the same command was run again undisturbed, these hold:

  wrong    the target shows the image, or nothing
  stuck    the undisturbed run ends with 0, whatever was done to the one before
  unknown  it does so too where the whole image is there already
  failed   what a download must survive (a short read, a clock that jumps) it survives
  litter   nothing is left next to the target, nor in the state folder
  bug      no failure is called a bug in fastdl, none has two classes, and none is a traceback
  lost     after an exit of 0 the target always exists
  hang     each run ends
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gzip
import hashlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

from fastdl.errors import SinkRefusedError
from tests.env import seam
from tests.env.command import Outcome
from tests.env.images import HAVE_QEMU
from tests.env.loopdev import loop_device
from tests.env.nbd import nbdkit
from tests.env.origin import FaultOrigin, Resource
from tests.env.signed import MAKERS, signed
from tests.env.warm import Warm, warm

SIZE = (3 << 20) + 4096
"""Two ends that are held back, a body, and no whole number of blocks."""
BLOCK = 512
ROOM = 1 << 20
"""Bytes that the larger device has behind the image."""
TIMEOUT_S = 90.0
WAYS = ("raw", "gz", "qcow2", "vmdk")
TARGETS = ("file", "device", "exact", "nbd")
"""*device* is larger than the image, *exact* is not."""
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.ENOMEM, errno.EACCES)
YEARS_S = 10 * 365 * 86400
JUMPS_S = (YEARS_S, -YEARS_S, 3600, -3600)
NO_CALL = {"*", "exit", "close"}
"""A failing close means nothing, see tests/adversity/test_after_publication.py."""
SURVIVED = ("short", "clock")
TIDIES = ("unlink", "rmdir", "open")
"""Calls without which nothing can be removed."""
STAGING = ".fastdl-staging"


class Point(NamedTuple):
    """One experiment. *nth*: of the calls named *call*, or of all (``*``)."""

    act: str
    way: str
    target: str
    image: str
    checksum: bool
    call: str
    nth: int
    ever: bool


class Site:
    """An origin with every kind of download, a folder, two devices and an NBD export."""

    def __init__(
        self, folder: Path, origin: FaultOrigin, command: Warm, targets: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.pool = folder / "pool"
        self.home = folder / "home"
        self.command = command
        self.targets = {"file": str(self.pool / "image"), **targets}
        self._origin = origin
        self._calls: dict[tuple[str, ...], dict[str, int]] = {}
        self.disks = {kind: signed(kind, SIZE) for kind in MAKERS}
        self.ways = [way for way in WAYS if HAVE_QEMU or way in ("raw", "gz")]
        self._digests: dict[str, str] = {}
        for kind, disk in self.disks.items():
            for way in self.ways:
                self._serve(f"/{kind}.{way}", self._made(disk, way))

    def _made(self, disk: bytes, way: str) -> bytes:
        if way == "raw":
            return disk
        if way == "gz":
            return gzip.compress(disk, 1, mtime=0)
        raw, made = self.folder / "raw", self.folder / "made"
        raw.write_bytes(disk)
        words = ["qemu-img", "convert", "-f", "raw", "-O", way, str(raw), str(made)]
        subprocess.run(words, check=True)
        return made.read_bytes()

    def _serve(self, path: str, content: bytes) -> None:
        self._origin.resources[path] = Resource.of(content)
        self._digests[path] = hashlib.sha256(content).hexdigest()

    @property
    def roots(self) -> list[Path]:
        """The folders that a download may change."""
        return [self.pool, self.home]

    def path(self, target: str) -> Path:
        """Where the bytes of *target* are to be read."""
        return self.folder / "nbd.img" if target == "nbd" else Path(self.targets[target])

    def reset(self, target: str) -> None:
        """Forget everything: an empty target, empty folders, no state."""
        self._origin.requests.clear()
        for root in self.roots:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
        if target != "file":
            with self.path(target).open("r+b", buffering=0) as raw:
                raw.write(bytes(SIZE + (ROOM if target == "device" else 0)))

    def run(self, point: Point, seam_words: Mapping[str, str] | None = None) -> Outcome:
        """The command of *point*, as the seam has it. TimeoutError where it does not end."""
        path = f"/{point.image}.{point.way}"
        words = ["get", self._origin.url(path), "-o", self.targets[point.target], "--json",
                 "--target-format", "raw", "--progress", "none", "--retry", "2"]  # fmt: skip
        if point.checksum:
            words += ["--checksum", f"sha-256:{self._digests[path]}"]
        return self.command.run(words, home=self.home, seam_words=seam_words, timeout=TIMEOUT_S)

    def calls(self, point: Point) -> dict[str, int]:
        """How many calls of each name an undisturbed run makes, once it is under way."""
        key = (point.way, point.target, str(point.checksum))
        if key not in self._calls:
            self.reset(point.target)
            log = self.folder / "log"
            log.unlink(missing_ok=True)
            done = self.run(point, seam.environment(log=log))
            assert done.code == 0, done
            names = [call.name for call in seam.calls(log)]
            names = names[names.index("socket") :]
            self._calls[key] = {**collections.Counter(names), "*": len(names)}
        return self._calls[key]


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """All that the points need, removed at the end."""
    # Memory where there is some to spare: what a flush costs there is not what is tried.
    room = Path("/dev/shm")  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix="fastdl-torture-", dir=room if room.is_dir() else None))
    try:
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(FaultOrigin({}))
            larger = stack.enter_context(loop_device(folder, size=SIZE + ROOM))
            exact = stack.enter_context(loop_device(folder, size=SIZE))
            (folder / "nbd.img").write_bytes(bytes(SIZE))
            export = stack.enter_context(nbdkit(folder, ["file", str(folder / "nbd.img")]))
            command = stack.enter_context(warm(folder))
            targets = {"device": larger.path, "exact": exact.path, "nbd": export.uri}
            yield Site(folder, origin, command, targets)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def drawn(site: Site, rng: Random, kind: str) -> Point:
    """A point of *kind*: kill, fault, short, flip or clock."""
    act = kind
    if kind == "kill":
        act = rng.choices(("kill", "kill3", "tear"), (6, 2, 1))[0]
    target = rng.choices(TARGETS, (8, 4, 4, 2))[0]
    point = Point(
        act, rng.choice(site.ways), target, rng.choice(sorted(site.disks)),
        kind == "flip" or rng.random() < 0.3, "*", 1, ever=False,
    )  # fmt: skip
    counts = site.calls(point)
    if kind == "fault":
        number = rng.choice(ERRNOS)
        call = rng.choice(sorted(counts.keys() - NO_CALL))
        # No kernel interrupts a call endlessly: programs that retry would do so endlessly.
        ever = number != errno.EINTR and rng.random() < 0.5
        point = point._replace(act=f"fail-{number}", call=call, ever=ever)
    elif kind in ("short", "flip") or act == "tear":
        names = {"short": ("write", "pwrite", "read", "pread", "recv", "send"), "flip": ("recv",)}
        chosen = [name for name in names.get(kind, ("write", "pwrite")) if name in counts]
        ever = act != "tear" and rng.random() < 0.5
        point = point._replace(call=rng.choice(chosen), ever=ever)
    return point._replace(nth=rng.randint(1, counts[point.call]))


def tried(site: Site, point: Point) -> list[str]:
    """Run *point*; the invariants that do not hold after it, with what was seen."""
    site.reset(point.target)
    found: list[str] = []
    for turn in range(3 if point.act == "kill3" else 1):
        do = {"kill3": "kill"}.get(point.act, point.act.removeprefix("fail-"))
        clock = JUMPS_S[point.nth % len(JUMPS_S)] if do == "clock" else 0
        nth = max(1, point.nth - turn * 7)
        ended = site.run(
            point,
            seam.environment(
                nth=nth, call=point.call, do=do, ever=point.ever, after="socket", clock=clock
            ),
        )
        found += checked(site, point, ended)
        if ended.code != 0 and point.act in SURVIVED:
            found.append(f"failed: {ended.code} {ended.stderr.strip()[-200:]}")
        if ended.code == 0:
            return found + litter(site, point)
        if ended.code < 0 and was_told(ended):
            return found
    return found + again(site, point)


def again(site: Site, point: Point, seam_words: Mapping[str, str] | None = None) -> list[str]:
    """What does not hold after an undisturbed run on what is there."""
    before = holds(site, point)
    done = site.run(point, seam_words)
    if done.code == SinkRefusedError.exit_code and before and holds(site, point):
        return ["unknown: the whole image is there, and its own command refuses it"]
    if done.code != 0:
        return [f"stuck: {done.code} {done.stderr.strip()[-200:]}"]
    return checked(site, point, done) + litter(site, point)


def checked(site: Site, point: Point, done: Outcome) -> list[str]:
    """What is wrong after a run that may have been killed or may have failed."""
    found = [] if (seen := unfit(site, point)) is None else [f"wrong: {seen}"]
    mute = is_mute(point.act, point.call)
    if done.code == 0 and not holds(site, point):
        found.append("lost: exit 0 without the image")
    if done.code not in (0, -signal.SIGKILL):
        if "a bug in fastdl" in done.stderr or "Traceback" in done.stderr:
            found.append(f"bug: {done.stderr.strip()[-200:]}")
        elif len(done.classes) != 1 and not mute:
            found.append(f"bug: {len(done.classes)} classes, exit {done.code}")
    return found


def was_told(done: Outcome) -> bool:
    """Whether a run has printed its result: who has that does not run a command again."""
    return done.stdout.endswith("}\n") and '"error"' not in done.stdout


def is_mute(act: str, call: str) -> bool:
    """Whether a run may have been unable to say what was wrong."""
    return act.startswith("fail") and call == "write"


def holds(site: Site, point: Point) -> bool:
    """Whether the target is the image."""
    path = site.path(point.target)
    if not path.exists():
        return False
    with path.open("rb") as shown:
        return shown.read(SIZE + (point.target == "file")) == site.disks[point.image]


def unfit(site: Site, point: Point) -> str | None:
    """What the target looks like that it is not: half an image, or another one."""
    path = site.path(point.target)
    if not path.exists() or holds(site, point):
        return None
    if point.target == "file":
        return "other bytes show"
    disk = site.disks[point.image]
    with path.open("rb") as shown:
        data = shown.read(SIZE)
    blocks = range(0, SIZE, BLOCK)
    lead = next(at for at in blocks if any(disk[at : at + BLOCK]))
    other = [at for at in blocks if data[at : at + BLOCK] != disk[at : at + BLOCK]]
    where = f"{len(other)} blocks differ, from {other[0]} to {other[-1]}"
    if lead not in other:
        return f"half an image begins like {point.image}: {where}"
    # What the kernel and the tools know a device by; the same program as an operator's.
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", str(path)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return f"half an image is known as {', '.join(found)}: {where}" if found else None


def litter(site: Site, point: Point) -> list[str]:
    """What a finished job left; of a device that it has filled a note stays."""
    if point.call in TIDIES:
        return []  # what could not be removed stays
    files = [p for root in site.roots for p in root.rglob("*")]
    left = {str(p.relative_to(site.folder)) for p in files if not p.is_dir() or STAGING in p.name}
    left -= {"pool/image"}
    if point.target != "file":
        left = {name for name in left if not name.endswith(".release")}
    return [f"litter: {', '.join(sorted(left))}"] if left else []
