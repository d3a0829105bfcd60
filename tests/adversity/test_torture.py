# SPDX-License-Identifier: Apache-2.0
"""Some points of the torture rig; ``scripts/torture`` makes as many as there is time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from scripts.torturing import ledger, sweep
from tests.env import storage_log
from tests.env.storage_log import Cut, Entry, File, Tree

SCALE = 20 if os.environ.get("FASTDL_FULL_SWEEP") else 1
SECONDS = 40.0 * SCALE
SECTOR = storage_log.SECTOR


@pytest.fixture(scope="module")
def rig() -> Iterator[sweep.Rig]:
    with sweep.rig() as made:
        yield made


def test_what_is_tortured_keeps_its_promises(rig: sweep.Rig, tmp_path: Path) -> None:
    """And a run that was interrupted goes on where its ledger ends."""
    path = tmp_path / "ledger"
    kinds = [kind for kind in sweep.KINDS if kind != "database"]
    sweep.swept(rig, path, seed=7, points=20, kinds=kinds)
    path.write_text(path.read_text() + '{"seed": 7, "num')
    rows = sweep.swept(rig, path, seed=7, points=250 * SCALE, seconds=SECONDS, kinds=kinds)
    assert [row for row in rows if row["found"]] == []
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 20
    counts = ledger.counts(rows)
    assert sum(count.points for count in counts) == len(rows)
    assert ledger.from_csv(ledger.to_csv(counts)) == counts


def test_managers_outlive_their_databases_faults(rig: sweep.Rig, tmp_path: Path) -> None:
    """A few calls of both databases."""
    rows = sweep.swept(
        rig,
        tmp_path / "ledger",
        seed=7,
        points=6 * SCALE,
        seconds=SECONDS / 3,
        kinds=["database"],
    )
    assert [row for row in rows if row["found"]] == []
    assert rows


# --- the model of a disk ---------------------------------------------------------------


def entry(kind: str, number: int = 0, **more: object) -> Entry:
    plain = Entry(kind, False, 0o100600, number, 1, 0, 0, 0, "", "", b"")
    return plain._replace(**more)  # type: ignore[arg-type]


def write(number: int, byte: bytes, at: int = 0) -> Entry:
    data = byte * SECTOR
    return entry("W", number, offset=at, length=len(data), data=data)


def done(number: int) -> Entry:
    return entry("D", number, length=1)


def device(log: list[Entry], writes: str, seed: int = 0) -> bytes:
    """What a device of two sectors, zero before, holds after *log* and a power cut."""
    start = Tree({}, {"/dev/x": 1}, {1: File(bytearray(2 * SECTOR), fixed=True)})
    tree = Cut(start, log, len(log), names="posix").tree(Random(seed), writes=writes)
    return bytes(tree.files[1].data)


A, B, ZERO = b"a" * SECTOR, b"b" * SECTOR, bytes(SECTOR)


def test_what_a_flush_covered_is_there() -> None:
    log = [write(1, b"a"), done(1), entry("F", 2), done(2), write(3, b"b", SECTOR), done(3)]
    assert device(log, "none") == A + ZERO
    assert device(log, "all") == A + B


def test_a_flush_covers_only_what_had_ended_before_it_started() -> None:
    """And one that has not returned covers nothing."""
    late = [write(1, b"a"), entry("F", 2), done(1), done(2)]
    assert device(late, "none") == ZERO + ZERO
    assert device([write(1, b"a"), done(1), entry("F", 2)], "none") == ZERO + ZERO


def test_what_failed_had_no_effect() -> None:
    """Zeroing is tried in ways that a device may not know."""
    failed = [entry("Z", 1, length=SECTOR), entry("D", 1)]
    log = [*failed, write(2, b"a"), done(2), entry("F", 3), done(3)]
    assert device(log, "all") == A + ZERO


def test_unflushed_writes_are_torn_and_dropped_in_every_way() -> None:
    """A later write without an earlier one, too; never an older one over a newer one."""
    log = [write(1, b"a"), done(1), write(2, b"b"), done(2), write(3, b"b", SECTOR), done(3)]
    seen = {device(log, "some", seed) for seed in range(200)}
    assert seen == {x + y for x in (ZERO, A, B) for y in (ZERO, B)}


@pytest.mark.parametrize(("names", "states"), [("ordered", 3), ("posix", 4)])
def test_names_change_in_their_order_or_in_any(names: str, states: int) -> None:
    """A renamed file's old name never stays beside the new one."""
    log = [
        entry("C", inode=5, first="/pool/a"),
        entry("R", inode=5, first="/pool/a", second="/pool/b"),
        entry("C", inode=6, first="/pool/c"),
    ]
    start = Tree({"/pool": 0o700}, {}, {})
    seen = {
        tuple(sorted(Cut(start, log, 3, names=names).tree(Random(n), writes="some").names))
        for n in range(200)
    }
    assert len(seen) >= states
    assert ("/pool/a", "/pool/b") not in seen
    assert (("/pool/c",) in seen) == (names == "posix")
