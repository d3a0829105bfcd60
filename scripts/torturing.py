# SPDX-License-Identifier: Apache-2.0
"""Kill downloads at any system call, or make the call fail, and check what is left of them.

``scripts/torture --points N --seed S`` draws N points: a kind of download, a target, a call of an
undisturbed run, and what happens there. The same command is then run again until it ends, and
the invariants are checked:

  wrong    the target shows the image, or nothing
  stuck    the next undisturbed run ends with 0, whatever was done to the one before
  litter   nothing is left next to the target
  bug      no failure is called a bug in fastdl, none has two classes, and none is a traceback
  lost     after an exit of 0 the target always exists

A finished point is recorded in the ledger (JSON lines) and not repeated: interrupt it, run
it again, raise N. It ends with a table of counts, in Markdown if ``--report`` names a file.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import errno
import gzip
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.env import seam
from tests.env.command import Outcome, run_fastdl
from tests.env.images import HAVE_QEMU
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin, Resource
from tests.env.signed import signed

SIZE = 4 << 20
DEVICE = 6 << 20
TIMEOUT_S = 120.0
FAULTS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.ENOMEM, errno.EACCES)
ACTS = ("kill", "kill", "kill", "kill3", "tear", *(f"fail-{number}" for number in FAULTS))
STATE = ("open", "mkdir", "flock", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "rename")
"""The calls that faults are made of; a kill is made of any."""


class Point(NamedTuple):
    """One experiment. *nth*: of the calls named *call*, or of all (``*``)."""

    way: str
    target: str
    act: str
    call: str
    nth: int
    ever: bool


class Site:
    """An origin with every kind of download, a folder and a device."""

    def __init__(self, folder: Path, origin: FaultOrigin, device: str) -> None:
        self.folder = folder
        self.origin = origin
        self.device = device
        self.disk = signed("gpt", SIZE)
        self.totals: dict[tuple[str, str], dict[str, int]] = {}
        sources = {"raw": self.disk, "gz": gzip.compress(self.disk, 1)}
        if HAVE_QEMU:
            raw = folder / "raw"
            raw.write_bytes(self.disk)
            for fmt in ("qcow2", "vmdk"):
                made = folder / fmt
                words = ["qemu-img", "convert", "-f", "raw", "-O", fmt, str(raw), str(made)]
                subprocess.run(words, check=True)
                sources[fmt] = made.read_bytes()
        self.ways = sorted(sources)
        for name, content in sources.items():
            origin.resources[f"/image.{name}"] = Resource.of(content)

    def path(self, target: str) -> Path:
        return Path(self.device) if target == "device" else self.folder / "pool" / "image"

    def reset(self) -> None:
        """Forget everything: an empty device, an empty folder, no state."""
        with Path(self.device).open("r+b", buffering=0) as raw:
            raw.write(bytes(DEVICE))
        for name in ("pool", "home"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        for run in self.folder.glob("run-*"):
            shutil.rmtree(run, ignore_errors=True)

    def run(self, way: str, target: str, prefix: list[str]) -> Outcome:
        url = self.origin.url(f"/image.{way}")
        words = ["get", url, "-o", str(self.path(target)), "--target-format", "raw", "--json"]
        words += ["--progress", "none", "--retry", "2"]
        return run_fastdl(words, home=self.folder / "home", prefix=prefix, timeout=TIMEOUT_S)

    def calls(self, way: str, target: str) -> dict[str, int]:
        """How many calls of each name an undisturbed run makes, once it is under way."""
        known = self.totals.get((way, target))
        if known is None:
            self.reset()
            log = self.folder / "log"
            log.unlink(missing_ok=True)
            self.run(way, target, seam.loaded(log=log))
            names = [call.name for call in seam.calls(log)]
            names = names[names.index("socket") :]
            known = {**collections.Counter(names), "*": len(names)}
            self.totals[way, target] = known
        return known


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """All that the points need, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fastdl-torture-"))
    try:
        with FaultOrigin({}) as origin, loop_device(folder, size=DEVICE) as device:
            yield Site(folder, origin, device.path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def drawn(site: Site, number: int, seed: int) -> Point:
    """Point *number* of the seed: the same on every machine that makes the same calls."""
    rng = random.Random(f"{seed}-{number}")  # noqa: S311 - to be drawn again
    way, target = rng.choice(site.ways), rng.choice(("file", "device"))
    act = rng.choice(ACTS)
    counts = site.calls(way, target)
    call = "*"
    if act == "tear":
        call = rng.choice([name for name in ("pwrite", "write") if name in counts])
    elif act.startswith("fail"):
        call = rng.choice([name for name in STATE if name in counts])
    nth = rng.randint(1, counts[call])
    # No kernel interrupts a call endlessly: programs that retry would do so endlessly.
    lasting = act.startswith("fail") and act != f"fail-{errno.EINTR}" and rng.random() < 0.5
    return Point(way, target, act, call, nth, lasting)


def tried(site: Site, point: Point) -> list[str]:
    """Run *point*; the invariants that do not hold after it, with what was seen."""
    site.reset()
    found: list[str] = []
    times = 3 if point.act == "kill3" else 1
    do = {"kill3": "kill"}.get(point.act, point.act.removeprefix("fail-"))
    for turn in range(times):
        nth = max(1, point.nth - turn * 7)
        prefix = seam.loaded(nth=nth, call=point.call, do=do, ever=point.ever, after="socket")
        ended = site.run(point.way, point.target, prefix)
        found += checked(site, point, ended)
        # Whoever has the printed result does not run a command again.
        if ended.code == 0 or (ended.code < 0 and ended.stdout.endswith("}\n")):
            return found + litter(site, point)
    done = site.run(point.way, point.target, [])
    if done.code != 0:
        return [*found, f"stuck: {done.code} {done.stderr.strip()[-200:]}"]
    return found + checked(site, point, done) + litter(site, point)


def shows(site: Site, point: Point) -> bytes:
    """What the target shows; nothing if it does not exist, or a device's head is zero."""
    path = site.path(point.target)
    if not path.exists():
        return b""
    with path.open("rb") as shown:
        data = shown.read(SIZE if point.target == "device" else SIZE + 1)
    # A device is known by its first block; before that it shows nothing.
    return b"" if point.target == "device" and not any(data[:512]) else data


def checked(site: Site, point: Point, done: Outcome) -> list[str]:
    """What is wrong after a run that may have been killed or may have failed."""
    shown = shows(site, point)
    found = []
    if shown not in (b"", site.disk):
        found.append("wrong: other bytes show")
    if done.code == 0 and shown != site.disk:
        found.append("lost: exit 0 without the image")
    if done.code not in (0, -signal.SIGKILL):
        if "a bug in fastdl" in done.stderr or "Traceback" in done.stderr:
            found.append(f"bug: {done.stderr.strip()[-200:]}")
        elif len(done.classes) > 1:
            found.append(f"bug: {len(done.classes)} classes")
    return found


def litter(site: Site, point: Point) -> list[str]:
    """What a finished job left next to its target."""
    left = sorted(str(path.name) for path in (site.folder / "pool").rglob("*"))
    kept = ["image"] if point.target == "file" else []
    return [] if left == kept else [f"litter: {', '.join(left)}"]


def swept(
    site: Site, ledger: Path, *, seed: int, points: int, seconds: float = 1e9
) -> list[dict[str, Any]]:
    """Run the points missing in *ledger*, none after *seconds*; returns all its rows."""
    rows = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    have = {row["number"] for row in rows if row["seed"] == seed}
    end = time.monotonic() + seconds
    with ledger.open("a") as out:
        for number in range(points):
            if number in have:
                continue
            if time.monotonic() > end:
                break
            point = drawn(site, number, seed)
            try:
                found = tried(site, point)
            except TimeoutError as exc:
                found = [f"hang: {exc}"]
            row = {"seed": seed, "number": number, **point._asdict(), "found": found}
            rows.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()
            if found:
                print(number, *point, *found, flush=True)
    return rows


def main() -> int:
    """Torture; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--ledger", type=Path, help="JSON lines; points in it are not done again")
    parser.add_argument("--report", type=Path, help="write the table of counts to this file")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no point after so long")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # remove what was made
    ledger = args.ledger or Path(f"build/torture-{args.seed}.jsonl")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with site() as made:
        rows = swept(made, ledger, seed=args.seed, points=args.points, seconds=args.seconds)
    table = report(rows)
    print(table)
    if args.report:
        args.report.write_text(table)
    return int(any(row["found"] for row in rows))


def report(rows: list[dict[str, Any]]) -> str:
    """The counts, as Markdown."""
    counts: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for row in rows:
        kind = {"kill": "kill", "kill3": "three kills", "tear": "torn write"}.get(
            row["act"], "failing call"
        )
        count = counts[kind, row["target"]]
        count[0] += 1
        count[1] += bool(row["found"])
    lines = ["| what | target | points | violations |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {target} | {done} | {bad} |"
        for (kind, target), (done, bad) in sorted(counts.items())
    ]
    done, bad = len(rows), sum(bool(row["found"]) for row in rows)
    lines.append(f"| all | | {done} | {bad} |")
    # "+": with changes that are in no commit.
    commit = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    today = datetime.datetime.now(datetime.UTC).date()
    return "\n".join([f"{today}, commit {commit}:", "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
