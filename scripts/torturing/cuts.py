# SPDX-License-Identifier: Apache-2.0
"""Power cuts: a download is recorded, and the disk is what it may be after any moment of it.

Writes that no flush made durable are dropped, kept, or torn at sectors; names change in their
order (as journaling file systems do it) or in any (as POSIX allows it). A quarter of the points
cut the next run as well. What must hold is what must hold after a kill, see ``downloads``.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import NamedTuple

from scripts.torturing import downloads
from scripts.torturing.downloads import Site
from tests.env import seam, storage_log
from tests.env.storage_log import Cut, Entry, Tree

USES = 25
"""Cuts that are made of one recording."""


class Point(NamedTuple):
    """One cut: at which part of the recording, and what became of what was not durable."""

    way: str
    target: str
    image: str
    checksum: bool
    part: float
    writes: str
    names: str
    twice: bool
    dice: int

    @property
    def download(self) -> downloads.Point:
        """The command that is cut."""
        return downloads.Point(
            "cut", self.way, self.target, self.image, self.checksum, "*", 1, ever=False
        )


class Recorded(NamedTuple):
    """A run: what was there before, and what it asked for."""

    start: Tree
    log: list[Entry]
    told: int
    """After so many entries the result has been printed: nobody runs the command again."""


class Recordings:
    """Each kind of download's last recording, used some times before it is made anew."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._kept: dict[downloads.Point, tuple[Recorded, int]] = {}

    def of(self, point: Point) -> Recorded:
        """An undisturbed run of *point*."""
        recorded, used = self._kept.get(point.download, (None, USES))
        if recorded is None or used >= USES:
            self.site.reset(point.target)
            recorded, used = self.made(point, {}), 0
        self._kept[point.download] = (recorded, used + 1)
        return recorded

    def made(self, point: Point, inodes: dict[int, int]) -> Recorded:
        """Run on what is there, and record it. *inodes* of files as their job knows them."""
        site, log = self.site, self.site.folder / "record"
        start = storage_log.snapshot(site.roots, self.devices(point))
        done = site.run(point.download, seam.environment(record=log, inodes=inodes))
        entries = storage_log.entries(log)
        log.unlink()
        assert done.code == 0, done
        found = (site.folder / "stdout").stat()
        stdout = storage_log.key(found.st_dev, found.st_ino)
        told = next(n for n, e in enumerate(entries) if (e.kind, e.inode) == ("W", stdout))
        kept = [(n, entry) for n, entry in enumerate(entries) if _is_watched(entry, start)]
        return Recorded(start, [entry for _, entry in kept], sum(1 for n, _ in kept if n < told))

    def devices(self, point: Point) -> list[Path]:
        """The device that *point* writes to."""
        return [] if point.target == "file" else [self.site.path(point.target)]


def _is_watched(entry: Entry, start: Tree) -> bool:
    """Whether it is about what lies here; the names of other places are nobody's here."""
    name = entry.second or entry.first
    return entry.kind not in "CRLUMX" or any(name.startswith(f"{f}/") for f in start.folders)


def drawn(site: Site, rng: Random) -> Point:
    """A point."""
    return Point(
        way=rng.choice(site.ways),
        target=rng.choice(("file", "device", "exact")),
        image=rng.choice(sorted(site.disks)),
        checksum=rng.random() < 0.3,
        # Half of them near the end, where targets become visible.
        part=rng.random() if rng.random() < 0.5 else 1 - rng.random() * 0.2,
        writes=rng.choice(storage_log.WRITES),
        names=rng.choice(storage_log.NAMES),
        twice=rng.random() < 0.25,
        dice=rng.getrandbits(32),
    )


def tried(recordings: Recordings, point: Point) -> list[str]:
    """Cut, look, and run the command again; what does not hold."""
    site, rng = recordings.site, Random(point.dice)  # noqa: S311 - to be drawn again
    recorded = recordings.of(point)
    inodes = _cut(site, point, recorded, rng)
    found = _looked(site, point)
    if point.twice and not found:
        # The numbers of these files are new, and the job knows them by the old ones.
        try:
            recorded = recordings.made(point, inodes)
        except AssertionError as exc:
            return [f"stuck: {str(exc)[-300:]}"]
        inodes = _cut(site, point, recorded, rng, inodes)
        found = _looked(site, point)
    return found + downloads.again(site, point.download, seam.environment(inodes=inodes))


def _cut(
    site: Site, point: Point, recorded: Recorded, rng: Random, known: dict[int, int] | None = None
) -> dict[int, int]:
    """Put the disk into one of its states; inode now → as the job knows it."""
    length = round(point.part * recorded.told)
    cut = Cut(recorded.start, recorded.log, length, names=point.names)
    now = storage_log.restore(cut.tree(rng, writes=point.writes), site.roots)
    return {new: (known or {}).get(old, old) for new, old in now.items()}


def _looked(site: Site, point: Point) -> list[str]:
    seen = downloads.unfit(site, point.download)
    return [] if seen is None else [f"wrong: after the cut {seen}"]
