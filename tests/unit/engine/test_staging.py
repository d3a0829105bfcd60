# SPDX-License-Identifier: Apache-2.0
"""A job's folder goes with it, with the next job at the latest, and never to somebody else."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from fastdl.engine import staging
from fastdl.errors import FastdlError, SinkBusyError

IDS = (66_001, 66_001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("victim", ["file", "folder"])
def test_a_folder_that_was_swapped_is_not_given_away(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making it and giving it to the download's user, another host puts a link there."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x") if victim == "file" else secret.mkdir()
    pool = tmp_path / "pool"
    pool.mkdir()
    make = Path.mkdir

    def swapped(self: Path, mode: int = 0o777, **more: bool) -> None:
        make(self, mode, **more)
        if self != pool:
            self.rmdir()
            self.symlink_to(secret)

    monkeypatch.setattr(Path, "mkdir", swapped)
    made = staging.path_beside(pool / "image", "a job")
    with pytest.raises(FastdlError), staging.resumable(made, ids=IDS):
        pass
    assert secret.stat().st_uid == 0
    assert secret.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_found_again_swept_and_removed(tmp_path: Path) -> None:
    """That user alone may enter it, and what it left is there for its next process."""
    made = staging.path_beside(tmp_path / "image", "a job")
    with staging.resumable(made, ids=IDS) as first:
        assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (IDS[0], 0o700)
        (made / "half").write_bytes(b"x")
        first.keep = True
    with staging.resumable(made, ids=IDS) as second:
        assert second.path == made
        assert (made / "half").read_bytes() == b"x"
        second.keep = True
    os.utime(made, (0, 0))
    staging.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_locked_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the job's own nor the one that it would have instead."""

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(fcntl, "flock", refused)
    made = staging.path_beside(tmp_path / "image", "a job")
    with pytest.raises(FastdlError), staging.resumable(made):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_dying_job_holds_is_waited_for(tmp_path: Path) -> None:
    """The run after a kill finds what was staged, though the last process of the killed one is a
    moment behind."""
    made = staging.path_beside(tmp_path / "image")
    made.mkdir(mode=0o700)
    (made / "source").write_bytes(b"x")
    held = os.open(made, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.2, os.close, (held,)).start()
    with staging.resumable(made) as found:
        assert found.path == made
        assert (made / "source").exists()


def test_a_lock_that_is_never_given_back_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read the folder can hold it."""
    monkeypatch.setattr(staging, "SWEEP_S", 0.1)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SinkBusyError), staging.within(tmp_path):
            pass
    finally:
        os.close(held)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_not_kept(tmp_path: Path) -> None:
    with staging.resumable(staging.path_beside(tmp_path / "image")) as made:
        made.keep = True
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_one_state_folder_have_a_folder_each(tmp_path: Path) -> None:
    """Two downloads to devices of the same name must not remove each other's."""
    with staging.within(tmp_path / "staging") as first:
        (first / "image").write_bytes(b"x")
        with staging.within(tmp_path / "staging") as second:
            assert second != first
        assert (first / "image").exists()
        assert not second.exists()
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_a_killed_job_left_in_the_state_folder_goes_with_the_next(tmp_path: Path) -> None:
    """Nothing holds its lock any more. Other files there are not touched."""
    left = tmp_path / f".00ff{staging.SUFFIX}"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    (tmp_path / "note").write_bytes(b"x")
    with staging.within(tmp_path):
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_folders_of_an_earlier_version_are_swept(tmp_path: Path) -> None:
    """With the same care: old, ours, for us alone, no link, and nobody works in it."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / ".fastdl-staging-link").symlink_to(tmp_path / "elsewhere")
    for name, mode in (("old", 0o700), ("young", 0o700), ("shared", 0o755), ("busy", 0o700)):
        made = tmp_path / f".fastdl-staging-{name}"
        made.mkdir()
        made.chmod(mode)
        if name != "young":
            os.utime(made, (1, 1))
    os.utime(tmp_path / ".fastdl-staging-link", (1, 1), follow_symlinks=False)
    fd = os.open(tmp_path / ".fastdl-staging-busy", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        staging.sweep(tmp_path)
    finally:
        os.close(fd)
    left = {path.name.removeprefix(".fastdl-staging-") for path in tmp_path.iterdir()}
    assert left == {"link", "young", "shared", "busy", "elsewhere"}
