# SPDX-License-Identifier: Apache-2.0
"""A file shows its old content or the complete new one, and nothing lands elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.errors import (
    FastdlError,
    SinkBusyError,
    SinkIOError,
    SinkRefusedError,
    SinkSpaceError,
    UsageError,
)
from fastdl.sinks import file as file_module
from fastdl.sinks import syscalls
from fastdl.sinks.base import Sink
from fastdl.sinks.open import existing_file, open_sink
from tests.env.loopdev import attached, loop_device


def land(sink: Sink, data: bytes) -> None:
    """What the C sink does, slowly."""
    sink.check_size(len(data))
    sink.preallocate(len(data))
    os.pwrite(sink.buffered_fd, data, 0)


@contextlib.contextmanager
def opened(target: Path | str, **options: object) -> Iterator[Sink]:
    """A sink that is closed at the end; every descriptor is given back."""
    before = set(os.listdir("/proc/self/fd"))
    sink = open_sink(str(target), **options)  # type: ignore[arg-type]
    try:
        yield sink
    finally:
        sink.close()
        sink.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_published_file_is_whole_and_alone(tmp_path: Path) -> None:
    """The name appears with the bytes, and no part file stays."""
    with opened(tmp_path / "a.img") as sink:
        assert sink.kind == "file"
        assert sink.blank
        assert not sink.resumable
        land(sink, b"x" * 5000)
        assert os.listdir(tmp_path) == [".a.img.fastdl-part"]
        assert stat.S_IMODE(os.fstat(sink.fd).st_mode) == 0o600
        sink.publish(5000)
    assert os.listdir(tmp_path) == ["a.img"]
    assert (tmp_path / "a.img").read_bytes() == b"x" * 5000


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_mode_is_private_until_published_and_then_the_umasks(tmp_path: Path, mask: int) -> None:
    """S12: an unfinished image is nobody else's to read."""
    old = os.umask(mask)
    try:
        with opened(tmp_path / "a") as sink:
            land(sink, b"x")
            assert stat.S_IMODE(os.fstat(sink.fd).st_mode) == 0o600
            sink.publish(1)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_publish_cuts_to_the_size(tmp_path: Path) -> None:
    """Room made for more than came is given back."""
    with opened(tmp_path / "a") as sink:
        land(sink, b"x" * 9000)
        sink.publish(123)
    assert (tmp_path / "a").stat().st_size == 123


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """S11: until publish the old content stays readable."""
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(SinkRefusedError, match="exists"):
        open_sink(str(target))
    with pytest.raises(SinkRefusedError, match="exists"):
        open_sink(str(target), overwrite="ext4")
    assert os.listdir(tmp_path) == ["a"]
    assert existing_file(str(target)) == existing_file(str(tmp_path), name_hint="a") == str(target)
    with opened(target, overwrite="file") as sink:
        land(sink, b"new")
        assert target.read_text() == "old"
        sink.publish(3)
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The kernel decides between two jobs, at the moment of the rename."""
    with opened(tmp_path / "a") as sink:
        land(sink, b"new")
        (tmp_path / "a").write_text("theirs")
        with pytest.raises(SinkRefusedError, match="appeared"):
            sink.publish(3)
        sink.abort(keep=False)
    assert (tmp_path / "a").read_text() == "theirs"
    # What was verified is not thrown away because its name was taken.
    assert (tmp_path / ".a.fastdl-part").read_bytes() == b"new"


def test_file_systems_without_noreplace_publish_by_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and FUSE answer EINVAL; the promise not to replace stays."""

    class NoRename:
        def renameat2(self, *words: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    with opened(tmp_path / "a") as sink, opened(tmp_path / "b") as other:
        land(sink, b"new")
        land(other, b"new")
        (tmp_path / "b").write_text("theirs")
        with monkeypatch.context() as patch:
            patch.setattr(syscalls, "libc", NoRename())
            sink.publish(3)
            with pytest.raises(SinkRefusedError):
                other.publish(3)
        other.abort(keep=False)
    assert sorted(os.listdir(tmp_path)) == [".b.fastdl-part", "a", "b"]
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "b").read_text() == "theirs"


def test_a_part_is_known_again_on_a_disk_with_another_number(tmp_path: Path) -> None:
    """The kernel counts disks and shares anew at each start; the journal's part is the same."""
    seen = []
    (tmp_path / "mnt").mkdir()
    with loop_device(tmp_path, size=32 << 20) as one, attached(one.backing) as other:
        subprocess.run(["mkfs.ext4", "-q", one.path], check=True)
        for path in (one.path, other):
            subprocess.run(["mount", path, str(tmp_path / "mnt")], check=True)
            try:
                with opened(tmp_path / "mnt" / "a") as sink:
                    land(sink, b"12345")
                    seen.append((os.fstat(sink.fd).st_dev, sink.identity))
                    sink.abort(keep=True)
            finally:
                subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


def test_an_aborted_job_keeps_or_removes_its_part(tmp_path: Path) -> None:
    """I4: nothing is left over, or exactly what a resume needs."""
    with opened(tmp_path / "a") as sink:
        land(sink, b"12345")
        sink.abort(keep=True)
    with opened(tmp_path / "a") as sink:
        assert sink.resumable
        assert not sink.blank
        assert os.pread(sink.buffered_fd, 9, 0) == b"12345"
        identity = sink.identity
    with opened(tmp_path / "a", resume=False) as sink:
        assert sink.blank
        assert not sink.resumable
        assert sink.identity == identity
        assert os.fstat(sink.fd).st_size == 0
        sink.abort(keep=False)
    assert os.listdir(tmp_path) == []


def test_abort_after_publish_has_no_effect(tmp_path: Path) -> None:
    """A caller's cleanup may run always."""
    with opened(tmp_path / "a") as sink:
        land(sink, b"x")
        sink.publish(1)
        sink.abort(keep=False)
    assert os.listdir(tmp_path) == ["a"]


def test_a_second_job_is_told_that_the_first_is_at_work(tmp_path: Path) -> None:
    """S11, R08: one wins entirely, in one process or in two."""
    with opened(tmp_path / "a") as sink:
        with pytest.raises(SinkBusyError):
            open_sink(str(tmp_path / "a"))
        code = "import sys; from fastdl.sinks.open import *; open_sink(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "SinkBusyError" in done.stderr
        land(sink, b"x")
        sink.publish(1)
    with pytest.raises(SinkRefusedError):
        open_sink(str(tmp_path / "a"))


def test_a_job_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    """R08: one that was killed holds its lock until its memory is freed."""
    sink = open_sink(str(tmp_path / "a"))
    threading.Timer(0.1, sink.close).start()
    open_sink(str(tmp_path / "a")).close()


def test_a_job_that_publishes_while_another_waits_for_it_was_at_work(tmp_path: Path) -> None:
    """R08: the second does not begin what it could not publish."""
    sink = open_sink(str(tmp_path / "a"))
    land(sink, b"x")
    threading.Timer(0.1, lambda: (sink.publish(1), sink.close())).start()
    with pytest.raises(SinkBusyError):
        open_sink(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("place", ["target", "part"])
@pytest.mark.parametrize("thing", ["link", "dangling", "hard link", "fifo", "folder", "socket"])
def test_what_is_no_plain_file_is_refused_and_untouched(
    tmp_path: Path, place: str, thing: str
) -> None:
    """S09, at the target's name and at the part file's."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    pool = tmp_path / "pool"
    pool.mkdir()
    at = pool / ("a" if place == "target" else ".a.fastdl-part")
    if thing == "link":
        at.symlink_to(victim)
    elif thing == "dangling":
        at.symlink_to(tmp_path / "nowhere")
    elif thing == "hard link":
        os.link(victim, at)
    elif thing == "fifo":
        os.mkfifo(at)
    elif thing == "folder":
        at.mkdir()
    else:
        os.mknod(at, stat.S_IFSOCK | 0o600)
    # A folder at the target's name is a folder to put the file in, and no name is proposed.
    wanted = UsageError if (thing, place) == ("folder", "target") else SinkRefusedError
    for overwrite in (None, "file"):
        with pytest.raises(wanted):
            open_sink(str(pool / "a"), overwrite=overwrite)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert os.listdir(pool) == [at.name]


@pytest.mark.parametrize("target", ["/dev/full", "/dev/null", "/proc/self/mem", "/nowhere/at/all"])
def test_special_files_are_refused(target: str) -> None:
    """S09: nothing is written to a character device or a kernel file."""
    with pytest.raises(SinkRefusedError):
        open_sink(target, overwrite="file")


def test_a_part_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could change it after the check of the digest."""
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    part = tmp_path / ".a.fastdl-part"
    part.write_text("theirs")
    os.chown(part, 12345, 12345)
    with pytest.raises(SinkRefusedError, match="another user"):
        open_sink(str(tmp_path / "a"))
    assert part.read_text() == "theirs"


def test_a_part_that_was_swapped_or_linked_is_not_published(tmp_path: Path) -> None:
    """S10: publish gives the name to the file that was verified, or to none."""
    part = tmp_path / ".a.fastdl-part"
    with opened(tmp_path / "a") as sink:
        land(sink, b"good")
        part.rename(tmp_path / "elsewhere")
        part.write_text("evil")
        with pytest.raises(SinkRefusedError, match="replaced"):
            sink.publish(4)
        sink.abort(keep=False)
        assert part.read_text() == "evil"  # not ours to remove
        part.unlink()
    with opened(tmp_path / "a") as sink:
        land(sink, b"good")
        os.link(part, tmp_path / "peek")
        with pytest.raises(SinkRefusedError, match="linked"):
            sink.publish(4)


def test_a_racing_link_never_redirects_a_write(tmp_path: Path) -> None:
    """S10: a process swaps the part's name for a link while jobs start and end."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    pool = tmp_path / "pool"
    pool.mkdir()
    part = pool / ".a.fastdl-part"
    stop = threading.Event()

    def race() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                part.unlink()
            with contextlib.suppress(OSError):
                part.symlink_to(victim)

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(300):
            with contextlib.suppress(FastdlError):
                sink = open_sink(str(pool / "a"), policy="strict", beneath=str(pool))
                try:
                    land(sink, b"evil")
                    sink.publish(4)
                finally:
                    sink.close()
            with contextlib.suppress(OSError):
                (pool / "a").unlink()
    finally:
        stop.set()
        racer.join()
    assert victim.read_text() == "precious"


def test_a_strict_target_stays_in_its_pool(tmp_path: Path) -> None:
    """S09: another folder, dots and links are refused; a file inside is not."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "out").symlink_to(tmp_path)
    for bad in (tmp_path / "a", pool / ".." / "a", pool / "out" / "a", pool / "out", "/dev/null"):
        with pytest.raises(SinkRefusedError, match=r"is outside|'\.\.' is not|symbolic link"):
            open_sink(str(bad), policy="strict", beneath=str(pool))
    assert sorted(os.listdir(tmp_path)) == ["pool"]
    assert os.listdir(pool) == ["out"]
    with opened(pool / "a", policy="strict", beneath=str(pool)) as sink:
        land(sink, b"x")
        sink.publish(1)
    with opened(pool, name_hint="b", policy="strict", beneath=str(pool)) as sink:
        sink.abort(keep=False)
    assert sorted(os.listdir(tmp_path)) == ["pool"]
    assert sorted(os.listdir(pool)) == ["a", "out"]


def test_a_folder_takes_the_proposed_name(tmp_path: Path) -> None:
    """`-o .` and `-o folder/` as every downloader has it; unsafe names are refused."""
    (tmp_path / "link").symlink_to(tmp_path)
    for target in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/link", f"{tmp_path}/."):
        with opened(target, name_hint="image.raw") as sink:
            assert sink.path.endswith("/image.raw")
            assert (tmp_path / ".image.raw.fastdl-part").exists()
            sink.abort(keep=False)
        with pytest.raises(SinkRefusedError):
            open_sink(target, name_hint="../evil")
        with pytest.raises(UsageError):
            open_sink(target)
    assert sorted(os.listdir(tmp_path)) == ["link"]


@pytest.mark.parametrize("target", ["", "a\0b"])
def test_no_name_is_a_usage_error(target: str) -> None:
    """The command line's mistake, not the disk's."""
    with pytest.raises(UsageError):
        open_sink(target)


def test_an_absent_nbd_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optional at build time, and not a traceback without."""
    monkeypatch.setitem(sys.modules, "fastdl.sinks.nbd", None)
    for uri in ("nbd://127.0.0.1", "nbd+unix:///?socket=/x"):
        with pytest.raises(UsageError, match="NBD"):
            open_sink(uri)


def test_null_has_the_same_life(tmp_path: Path) -> None:
    """Benchmarks go through the same calls."""
    with opened("null:") as sink:
        assert (sink.kind, sink.fd, sink.buffered_fd) == ("null", -1, -1)
        sink.check_size(1 << 60)
        sink.preallocate(1 << 60)
        sink.publish(1 << 60)
        sink.abort(keep=False)


def test_a_size_that_cannot_fit_is_refused_before_the_first_write(tmp_path: Path) -> None:
    """S01: not after an hour."""
    with opened(tmp_path / "a") as sink:
        with pytest.raises(SinkSpaceError):
            sink.check_size(1 << 60)
        with pytest.raises(SinkSpaceError):
            sink.preallocate(1 << 60)
        sink.abort(keep=False)
    assert os.listdir(tmp_path) == []


def test_the_free_space_of_a_resumed_file_counts_what_it_has(tmp_path: Path) -> None:
    """A part that fills the disk must not be told that there is no room for it."""
    with opened(tmp_path / "a") as sink:
        room = os.fstatvfs(sink.fd)
        sink.preallocate(8 << 20)
        free = os.fstatvfs(sink.fd)
        assert free.f_bavail <= room.f_bavail
        sink.check_size(8 << 20)
        sink.abort(keep=False)


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failed_flush_is_never_a_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """S02: exit 0 means durable."""

    def failing(fd: int) -> None:
        raise OSError(fault, os.strerror(fault))

    with opened(tmp_path / "a") as sink:
        land(sink, b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(SinkIOError if fault == errno.EIO else SinkSpaceError) as caught:
                sink.publish(1)
        assert caught.value.phase == "publish"
        assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_flushed_is_a_failure_that_says_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S02: the name may vanish at a power cut; the bytes need not be fetched again."""
    real = os.fsync

    def failing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with opened(tmp_path / "a") as sink:
        land(sink, b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(SinkIOError, match="is complete, but its folder") as caught:
                sink.publish(1)
        assert caught.value.phase == "publish"
        sink.abort(keep=False)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"x")]


def test_a_limit_on_the_file_size_is_a_lack_of_space(tmp_path: Path) -> None:
    """S12: RLIMIT_FSIZE answers EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path / "a") as sink:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(SinkSpaceError):
                sink.preallocate(2 << 20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_sparse_image_takes_its_length_and_no_room(tmp_path: Path) -> None:
    """I19: a TiB of holes fits on a small disk."""
    with opened(tmp_path / "a") as sink:
        sink.preallocate(1 << 40, sparse=True)
        assert os.fstat(sink.fd).st_size == 1 << 40
        assert os.fstat(sink.fd).st_blocks * 512 < 1 << 20
        sink.abort(keep=False)


def test_a_file_system_that_cannot_allocate_gets_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS 3 and FUSE: the length is what can be had."""

    def absent(fd: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(file_module.syscalls, "fallocate", absent)
    with opened(tmp_path / "a") as sink:
        sink.preallocate(1 << 20)
        assert os.fstat(sink.fd).st_size == 1 << 20
        sink.preallocate(None)
        sink.abort(keep=False)


def test_direct_writes_work_where_the_sink_says_so(tmp_path: Path) -> None:
    """`align` is what the real file system takes, 1 where it takes none."""
    for folder in (tmp_path, Path("/dev/shm")):
        name = f"fdl-direct-{os.getpid()}"
        with opened(folder / name) as sink, mmap.mmap(-1, 8192) as page:
            if sink.align == 1:
                assert sink.fd == sink.buffered_fd
            else:
                assert os.pwritev(sink.fd, [memoryview(page)[: sink.align]], 0) == sink.align
            sink.abort(keep=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "mnt"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "fdl-test", str(mount)],
        capture_output=True,
        check=False,
        timeout=30,
    )
    if done.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=30)


def test_a_full_disk_shows_before_the_download(small_disk: Path) -> None:
    """S01: statvfs and fallocate agree, and nothing stays behind."""
    with opened(small_disk / "a") as sink:
        sink.check_size(512 << 10)
        with pytest.raises(SinkSpaceError):
            sink.check_size(2 << 20)
        with pytest.raises(SinkSpaceError):
            sink.preallocate(2 << 20)
        sink.abort(keep=False)
    assert os.listdir(small_disk) == []


def test_a_read_only_disk_is_refused(small_disk: Path) -> None:
    """S12."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, timeout=30)
    with pytest.raises(SinkRefusedError):
        open_sink(str(small_disk / "a"))
