# SPDX-License-Identifier: Apache-2.0
"""Is a file replaced whole or not at all, and is each fact about the system read in one place?"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from fastdl import fs

SOURCES = Path(fs.__file__).parent
HOMES = {
    "replacing a file": (
        # A text's `replace` has two arguments, a path's has one.
        re.compile(r"os\.(?:rename|replace)\(|\.rename\(|\.replace\((?!\w+=)[^,\n]*\)\n"),
        # A target's publication, whole folders of a pool, a keystore that others rewrite at any
        # time, and the home itself.
        {
            *("fs.py", "sinks/file.py", "sinks/syscalls.py", "trust/keystore/store.py"),
            "agent/pools/directory.py",
        },
    ),
    "the mount table": (re.compile(r"/mountinfo"), {"fs.py"}),
    "how aliases are compared": (re.compile(r"\balias\.(?:lower|casefold)\("), {"trust/alias.py"}),
    "networks": (re.compile(r"\bip_network\("), {"model/address.py"}),
    "splitting a URL": (re.compile(r"\burl(?:split|parse)\b"), set()),
    "the boot id": (re.compile(r"\brandom/boot_id"), {"fs.py", "agent/confine.py"}),
}


@pytest.mark.parametrize("fact", HOMES)
def test_a_fact_has_one_home(fact: str) -> None:
    """The second home forgets what the first one has learned: a flush, an escape."""
    pattern, homes = HOMES[fact]
    found = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found == homes


def test_a_file_is_replaced_and_private(tmp_path: Path) -> None:
    """Nobody reads it between its making and a change of its mode."""
    path = tmp_path / "f"
    path.write_text("old")
    modes = []
    assert fs.replace_file(path, b"new", prepare=lambda fd: modes.append(os.fstat(fd).st_mode))
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(modes[0]) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["open", "prepare", "fsync", "rename"])
def test_what_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever step it is, and nothing half written stays beside it."""
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if step != "prepare":
        monkeypatch.setattr(fs.os, step, fail)
    with pytest.raises(OSError, match="No space"):
        fs.replace_file(path, b"new", prepare=fail if step == "prepare" else None)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_the_name_is_flushed_after_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the folder's flush a power cut brings the old file back."""
    real, flushed = os.fsync, []

    def fsync(fd: int) -> None:
        flushed.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        real(fd)

    monkeypatch.setattr(fs.os, "fsync", fsync)
    fs.replace_file(tmp_path / "f", b"new")
    assert flushed == [False, True]


def test_an_event_loop_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy disk takes seconds for a flush, in which an agent would answer nobody."""
    monkeypatch.setattr(fs.os, "fsync", pytest.fail)
    path = tmp_path / "f"
    path.write_text("old")
    assert fs.replace_file(path, b"new", durable=False)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_that_changed_meanwhile_stays(tmp_path: Path) -> None:
    """Who asks for it is told, and nothing is left behind."""
    path = tmp_path / "f"
    path.write_text("old")
    assert not fs.replace_file(path, b"new", put=lambda *_: False)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_name_in_an_opened_folder_is_replaced(tmp_path: Path) -> None:
    """No path is followed a second time."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fs.replace_file("f", b"new", folder_fd=folder)
        assert (tmp_path / "f").read_bytes() == b"new"
        os.fstat(folder)  # still the caller's
    finally:
        os.close(folder)


def test_the_mount_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks in names are escaped there, and a line may have optional fields or none."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "36 35 98:0 /a /mnt\\040x rw,noatime master:1 - ext3 /dev/ro\\134ot rw\n"
        "37 35 98:1 / /y rw - nfs4 host:/e rw\nbroken\n"
    )
    monkeypatch.setattr(fs, "MOUNTS", str(table))
    assert fs.mounts() == [
        fs.Mount("98:0", "/mnt x", "ext3", "/dev/ro\\ot"),
        fs.Mount("98:1", "/y", "nfs4", "host:/e"),
    ]
    monkeypatch.undo()
    assert "/" in {mount.path for mount in fs.mounts()}


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """Managers and agents rely on it: a second holder is refused, the next one after it is not."""
    held = fs.open_locked(tmp_path / "lock")
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    with pytest.raises(BlockingIOError):
        fs.open_locked(tmp_path / "lock")
    os.close(held)
    os.close(fs.open_locked(tmp_path / "lock"))


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        fs.open_locked(tmp_path / "lock")
    assert not (tmp_path / "other").exists()


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1234")
    assert fs.read_at_most(str(file), 4) == b"1234"
    with pytest.raises(OSError, match="too large"):
        fs.read_at_most(str(file), 3)
