# SPDX-License-Identifier: Apache-2.0
"""Mixed work for a long time in one process: do descriptors, threads and memory stay flat?

``scripts/soak --minutes N`` runs two processes at the same time, and looks at them from outside:

  downloads  one process, four downloads at a time without end: files, packed and converted images,
             wrong digests, absent files, dead mirrors, cancelled ones
  manager    a manager with 20 hosts that come and go, under commands that succeed and fail

The first fifth of the time is for warming up. What nine tenths of the samples in the last fifth
have may not pass that of the second by more than four descriptors or threads, and the median of
the memory by more than a tenth or 8 MiB. ``--record`` adds the figures to docs/soak.csv. Exits with
1 where something grew or ended in another way.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.soaking import downloads, figures, managing
from scripts.soaking.figures import Row, Sample
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

SIZE = 2 << 20
SLOW = 4 << 20
"""Bytes per second of what is cancelled."""
EVERY_S = 1.0


@contextmanager
def _downloading(folder: Path, origin: FaultOrigin) -> Iterator[subprocess.Popen[str]]:
    disk = pseudo_random(5, SIZE)
    raw, made = folder / "raw", folder / "made"
    raw.write_bytes(disk)
    contents = {"raw": disk, "gz": gzip.compress(disk, 1)}
    if shutil.which("qemu-img"):
        words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
        subprocess.run(words, check=True)
        contents["qcow2"] = made.read_bytes()
    for name, content in contents.items():
        origin.resources[f"/{name}"] = Resource.of(content)
    origin.resources["/slow"] = Resource.of(disk, rules=[Rule(rate=SLOW)])
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    targets = folder / "targets"
    targets.mkdir()
    words = [sys.executable, "-m", "scripts.soaking.downloads", origin.base, str(targets)]
    process = subprocess.Popen(
        [*words, json.dumps(digests)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=figures.ROOT,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _counted(process: subprocess.Popen[str], word: str = "") -> Counter[str]:
    """How often what ended how, as the downloading process says."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return Counter(json.loads(process.stdout.readline()))


def soaked(folder: Path, seconds: float) -> tuple[list[Row], list[str]]:
    """The figures, and what ended in another way than it had to."""
    seen: dict[str, list[Sample]] = {"downloads": [], "manager": []}
    managed: Counter[str] = Counter()
    end = next_look = 0.0
    with FaultOrigin({}) as origin, _downloading(folder, origin) as process:

        def looked(pid: int) -> None:
            nonlocal next_look
            if time.monotonic() < next_look:
                return
            next_look = time.monotonic() + min(EVERY_S, seconds / 60)
            seen["downloads"].append(figures.sample(process.pid))
            seen["manager"].append(figures.sample(pid))
            origin.requests.clear()

        def over() -> bool:
            """The time runs when the hosts are there."""
            nonlocal end
            end = end or time.monotonic() + seconds
            return time.monotonic() > end

        asyncio.run(managing.manage(folder, over, looked, managed))
        ended = _counted(process, "end")
        process.wait(60)
    wrong = [
        f"downloads: {end} ({count} times)"
        for end, count in ended.items()
        if end.split()[1] not in downloads.WANTED[end.split()[0]]
    ]
    wrong += [f"manager: {end} ({n} times)" for end, n in managed.items() if "INTERNAL" in end]
    for what, counts in (("downloads", ended), ("manager", managed)):
        print(f"{what}: {', '.join(f'{n} {end}' for end, n in sorted(counts.items()))}")
    actions = {"downloads": ended.total(), "manager": managed.total()}
    rows = [
        figures.verdict(what, samples, actions[what], seconds / 60)
        for what, samples in seen.items()
    ]
    return rows, wrong


def main() -> int:
    """Soak; 1 if something grew or ended in another way than it had to."""
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, metavar="N")
    parser.add_argument("--record", action="store_true", help="add the figures to docs/soak.csv")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fastdl-soak-"))
    try:
        rows, wrong = soaked(folder, args.minutes * 60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for row in rows:
        print(*row, sep=" ")
    print(*wrong, sep="\n")
    if args.record:
        figures.record(rows)
    return int(bool(wrong) or any(row.grown for row in rows))


if __name__ == "__main__":
    sys.exit(main())
