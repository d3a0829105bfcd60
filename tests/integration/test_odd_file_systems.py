# SPDX-License-Identifier: Apache-2.0
"""What a file system lacks costs a warning, never the bytes: NFS, SMB, exFAT, FUSE."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.faults import Rule
from tests.env.landing import Bench
from tests.env.odd_fs import bind_mount, build_refusals, overlay, refusing
from tests.env.origin import pseudo_random

DATA = pseudo_random(77, 3 << 20)
CHECKSUM = f"sha-256:{hashlib.sha256(DATA).hexdigest()}"
LARGE = pseudo_random(78, 16 << 20)
LARGE_CHECKSUM = f"sha-256:{hashlib.sha256(LARGE).hexdigest()}"
LARGE_RATE = 8 << 20


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preloaded library that refuses system calls."""
    return build_refusals(tmp_path_factory.mktemp("refuse"))


def fetch(bench: Bench, folder: Path, *options: str, prefix: list[str] | None = None) -> Outcome:
    """Get DATA as ``x`` in *folder*; the outcome of the real command."""
    folder.mkdir(exist_ok=True)
    words = ["get", bench.url(DATA, name="x.iso"), "-o", str(folder / "x"), "--json", *options]
    return run_fastdl(words, home=bench.home, prefix=prefix or [])


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_any_locks_a_job_keeps_to_a_part_file_of_its_own(
    bench: Bench, library: Path, number: int
) -> None:
    """Two jobs must not write to one file, so what may be another's part file is left alone."""
    folder = bench.folder / "d"
    folder.mkdir()
    (folder / ".x.fastdl-part").write_bytes(b"of a job that may be alive")
    done = fetch(
        bench, folder, "--checksum", CHECKSUM, prefix=refusing(library, flock=number, ofd=number)
    )
    assert done.code == 0, done
    assert any("no locks" in warning for warning in done.json["warnings"])
    assert (folder / "x").read_bytes() == DATA
    assert sorted(os.listdir(folder)) == [".x.fastdl-part", "x"]
    assert (folder / ".x.fastdl-part").read_bytes() == b"of a job that may be alive"


def test_a_lock_of_the_open_file_stands_in_for_flock(bench: Bench, library: Path) -> None:
    """Where only fcntl's locks work, two jobs are still kept apart."""
    folder = bench.folder / "d"
    folder.mkdir()
    prefix = refusing(library, flock=errno.ENOSYS)
    done = fetch(bench, folder, "--checksum", CHECKSUM, prefix=prefix)
    assert done.code == 0, done
    assert done.json["warnings"] == []
    (folder / "x").unlink()
    with (folder / ".x.fastdl-part").open("wb") as held:
        # struct flock: write lock of the whole file, owned by this open file.
        lock = (1).to_bytes(2, "little") + bytes(30)
        fcntl.fcntl(held, 37, lock)
        done = fetch(bench, folder, prefix=prefix)
    assert done.code == 32, done


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_without_a_flush_is_a_warning(bench: Bench, library: Path, number: int) -> None:
    """SMB and some FUSE file systems know no fsync of folders; a second run agrees."""
    folder = bench.folder / "d"
    prefix = refusing(library, dirsync=number)
    done = fetch(bench, folder, "--checksum", CHECKSUM, prefix=prefix)
    assert done.code == 0, done
    assert any("cannot be flushed" in warning for warning in done.json["warnings"])
    again = fetch(bench, folder, "--checksum", CHECKSUM, prefix=prefix)
    assert again.code == 0, again
    assert again.json["fetched_bytes"] == 0


def test_a_folder_whose_flush_fails_is_an_error(bench: Bench, library: Path) -> None:
    """EIO is no lack of support: nothing durable may be claimed."""
    done = fetch(
        bench, bench.folder / "d", "--no-resume", prefix=refusing(library, dirsync=errno.EIO)
    )
    assert done.code == 31, done
    assert "complete" in done.stderr


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_noreplace_and_links_a_plain_rename_follows_a_last_look(
    bench: Bench, library: Path, number: int
) -> None:
    """exFAT and many FUSE file systems: EINVAL for the flag, and no hard links."""
    folder = bench.folder / "d"
    done = fetch(bench, folder, prefix=refusing(library, noreplace=errno.EINVAL, link=number))
    assert done.code == 0, done
    assert any("just before" in warning for warning in done.json["warnings"])
    assert os.listdir(folder) == ["x"]


def test_verified_bytes_outlive_a_name_that_cannot_be_given(bench: Bench, library: Path) -> None:
    """The rename fails for good: what was proven is kept, and a later run gives the name."""
    folder = bench.folder / "d"
    prefix = refusing(library, noreplace=errno.EINVAL, link=errno.EPERM, rename=errno.EACCES)
    done = fetch(bench, folder, "--checksum", CHECKSUM, prefix=prefix)
    assert done.code == 33, done
    assert ".x.fastdl-part next to it" in done.stderr
    assert (folder / ".x.fastdl-part").read_bytes() == DATA
    again = fetch(bench, folder, "--checksum", CHECKSUM)
    assert again.code == 0, again
    assert (folder / "x").read_bytes() == DATA
    assert os.listdir(folder) == ["x"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_modes_that_cannot_be_set_are_a_warning(bench: Bench, library: Path, number: int) -> None:
    """A mount with fixed modes decides itself who may read the file."""
    done = fetch(bench, bench.folder / "d", prefix=refusing(library, chmod=number))
    assert done.code == 0, done
    assert any("permission bits" in warning for warning in done.json["warnings"])


@pytest.mark.parametrize(
    "number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EACCES]
)
def test_room_that_cannot_be_reserved_is_taken_as_it_comes(
    bench: Bench, library: Path, number: int
) -> None:
    """fallocate is an optimisation and an early warning, not a need."""
    done = fetch(bench, bench.folder / "d", prefix=refusing(library, fallocate=number))
    assert done.code == 0, done


def test_an_overlay_of_two_file_systems_takes_and_resumes_a_file(
    bench: Bench, tmp_path: Path
) -> None:
    """A container's or live system's root: a file there has another device than its folder."""
    with overlay(tmp_path) as mount:
        url = bench.url(LARGE, Rule(rate=LARGE_RATE), name="x.iso")
        words = ["get", url, "-o", str(mount / "x"), "--checksum", LARGE_CHECKSUM, "--json"]
        before = bench.origin.sent
        with running_fastdl(words, home=bench.home) as run:
            bench.origin.wait_for(lambda: bench.origin.sent - before > len(LARGE) // 2)
            run.send(signal.SIGTERM)
            assert run.finish(timeout=30).code == 130
        assert (mount / ".x.fastdl-part").stat().st_dev != mount.stat().st_dev
        done = run_fastdl(words, home=bench.home)
        assert done.code == 0, done
        assert done.json["resumed_bytes"] > 0
        assert (mount / "x").read_bytes() == LARGE


@pytest.mark.parametrize(
    "options",
    [
        ("--chmod-deny",),
        ("--force-user=nobody", "--chown-ignore"),
        ("--force-user=nobody", "--chmod-deny"),
    ],
    ids=["no-chmod", "foreign-owner", "both"],
)
def test_a_real_fuse_mount_takes_resumes_and_keeps_a_file(
    bench: Bench, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Files of a foreign owner are ours where the mount gives every file that owner."""
    slow = Rule(rate=LARGE_RATE)
    with bind_mount(tmp_path, *options) as mount:
        url = bench.url(LARGE, slow, name="x.iso")
        words = ["get", url, "-o", str(mount / "x"), "--checksum", LARGE_CHECKSUM, "--json"]
        before = bench.origin.sent
        with running_fastdl(words, home=bench.home) as run:
            bench.origin.wait_for(lambda: bench.origin.sent - before > len(LARGE) // 2)
            run.send(signal.SIGTERM)
            stopped = run.finish(timeout=30)
        assert stopped.code == 130, stopped
        assert (mount / ".x.fastdl-part").exists()
        done = run_fastdl(words, home=bench.home)
        assert done.code == 0, done
        assert done.json["resumed_bytes"] > 0
        assert (mount / "x").read_bytes() == LARGE
        assert os.listdir(mount) == ["x"]
