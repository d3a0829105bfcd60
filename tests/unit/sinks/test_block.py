# SPDX-License-Identifier: Apache-2.0
"""A device is written only when it is free, blank or named, and it is the one that was opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine import journal
from fastdl.errors import SinkBusyError, SinkRefusedError, SinkSpaceError
from fastdl.sinks.base import HOLD_BYTES
from fastdl.sinks.open import open_sink
from tests.env.loopdev import LoopDevice, attached, loop_device

SIZE = 16 << 20


@pytest.fixture(params=[512, 4096])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDevice]:
    """A blank loop device of each sector size."""
    with loop_device(tmp_path, size=SIZE, sector_size=request.param) as found:
        yield found


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LoopDevice]:
    """A blank loop device with direct I/O to its file."""
    with loop_device(tmp_path, size=SIZE, direct_io=True) as found:
        yield found


def make_ext4(device: LoopDevice) -> None:
    """A real file system on the device."""
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4 here")
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True, timeout=60)


def test_a_blank_device_opens_with_its_geometry(device: LoopDevice) -> None:
    """What the C sink needs to know, told by the kernel through the descriptor."""
    sink = open_sink(device.path)
    assert (sink.kind, sink.capacity, sink.hold) == ("block", SIZE, HOLD_BYTES)
    assert sink.sector_size == device.sector_size
    assert sink.align in {1, device.sector_size}
    assert not sink.blank
    assert sink.identity["size"] == SIZE
    assert sink.identity["backing_file"] == str(device.backing)
    sink.close()
    assert device.read() == bytes(SIZE)


def test_a_device_is_the_same_under_another_number(plain: LoopDevice) -> None:
    """The kernel counts devices anew at each start; the journal is found by the stable names."""
    with attached(plain.backing) as other:
        seen = []
        for path in (plain.path, other):
            sink = open_sink(path)
            seen.append((os.fstat(sink.fd).st_rdev, sink.identity))
            sink.close()
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


def test_a_size_beyond_the_device_is_refused(plain: LoopDevice) -> None:
    """S04: by one byte, by a sector, by half."""
    sink = open_sink(plain.path)
    sink.check_size(SIZE)
    for over in (1, 512, SIZE // 2):
        with pytest.raises(SinkSpaceError):
            sink.check_size(SIZE + over)
    sink.close()


def test_a_job_that_fails_early_leaves_the_device_as_it_was(plain: LoopDevice) -> None:
    """Data without a signature is data as well: a 404 must not cost anybody's head."""
    plain.fill(0xAA)
    sink = open_sink(plain.path)
    sink.abort(keep=False)
    sink.close()
    assert plain.read() == b"\xaa" * SIZE


@pytest.mark.parametrize("size", [SIZE, SIZE - (5 << 20), 3 << 20, 100])
def test_an_aborted_job_zeroes_head_and_tail(device: LoopDevice, size: int) -> None:
    """I1: nothing that looks like an image; the body stays for a resume."""
    device.fill(0xAA)
    sink = open_sink(device.path)
    sink.check_size(size)
    sink.preallocate(size)
    os.pwrite(sink.buffered_fd, b"\xbb" * size, 0)
    sink.abort(keep=True)
    sink.close()
    data = device.read()
    assert data[:HOLD_BYTES] == bytes(HOLD_BYTES)
    tail = data[max(0, size - HOLD_BYTES) : size]
    assert tail == bytes(len(tail))
    body = data[HOLD_BYTES : max(HOLD_BYTES, size - HOLD_BYTES)]
    assert body == b"\xbb" * len(body)


def test_a_stale_backup_at_the_devices_end_goes(plain: LoopDevice) -> None:
    """A backup GPT behind a smaller image would be found by the next partition tool."""
    plain.fill(0xAA)
    sink = open_sink(plain.path)
    sink.preallocate(4 << 20)
    sink.close()
    data = plain.read()
    assert data[-HOLD_BYTES:] == bytes(HOLD_BYTES)
    assert data[:-HOLD_BYTES] == b"\xaa" * (SIZE - HOLD_BYTES)


def test_a_published_device_is_left_alone(plain: LoopDevice) -> None:
    """A caller's cleanup may run always."""
    sink = open_sink(plain.path)
    sink.preallocate(SIZE)
    os.pwrite(sink.buffered_fd, b"\xbb" * SIZE, 0)
    sink.publish(SIZE)
    sink.abort(keep=False)
    sink.close()
    assert plain.read() == b"\xbb" * SIZE


def test_a_signature_is_overwritten_only_by_its_name(plain: LoopDevice) -> None:
    """S07: refused and unchanged, unless the command says what it destroys."""
    make_ext4(plain)
    before = plain.read()
    for wrong in (None, "xfs", "EXT4", "file"):
        with pytest.raises(SinkRefusedError, match="'ext4'"):
            open_sink(plain.path, overwrite=wrong)
    assert plain.read() == before
    sink = open_sink(plain.path, overwrite="ext4")
    sink.preallocate(SIZE)
    sink.abort(keep=False)
    sink.close()
    open_sink(plain.path).close()  # what we leave is blank to the next job


def test_a_mounted_device_is_busy(plain: LoopDevice, tmp_path: Path) -> None:
    """S05: and the message says where."""
    make_ext4(plain)
    mount = tmp_path / "a mount"
    mount.mkdir()
    subprocess.run(["mount", plain.path, str(mount)], check=True, timeout=30)
    try:
        with pytest.raises(SinkBusyError, match=r"mounted on .*a mount"):
            open_sink(plain.path, overwrite="ext4")
    finally:
        subprocess.run(["umount", str(mount)], check=True, timeout=30)


def test_swap_space_is_busy(plain: LoopDevice) -> None:
    """S05."""
    subprocess.run(["mkswap", plain.path], check=True, capture_output=True, timeout=30)
    if subprocess.run(["swapon", plain.path], check=False, timeout=30).returncode:
        pytest.skip("swapon is not allowed here")
    try:
        with pytest.raises(SinkBusyError, match="swap"):
            open_sink(plain.path, overwrite="swap")
    finally:
        subprocess.run(["swapoff", plain.path], check=True, timeout=60)


def test_a_claimed_device_is_busy(plain: LoopDevice) -> None:
    """S05: two jobs to one device; the second is told, and the first is not disturbed."""
    first = open_sink(plain.path)
    with pytest.raises(SinkBusyError, match="another process"):
        open_sink(plain.path)
    first.close()
    open_sink(plain.path).close()


def test_a_claim_that_is_about_to_end_is_waited_for(plain: LoopDevice) -> None:
    """A job that was killed has its device until its memory is freed."""
    first = open_sink(plain.path)
    threading.Timer(0.1, first.close).start()
    open_sink(plain.path).close()


def test_a_device_under_another_loop_device_is_busy(plain: LoopDevice) -> None:
    """The kernel does not claim what a loop device reads through."""
    out = subprocess.run(
        ["losetup", "--find", "--show", plain.path],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    upper = out.stdout.strip()
    try:
        with pytest.raises(SinkBusyError, match=Path(upper).name):
            open_sink(plain.path)
    finally:
        subprocess.run(["losetup", "--detach", upper], check=True, timeout=30)


def test_a_read_only_device_is_refused(tmp_path: Path) -> None:
    """S06."""
    with (
        loop_device(tmp_path, size=SIZE, read_only=True) as found,
        pytest.raises(SinkRefusedError, match=r"read-only|writing"),
    ):
        open_sink(found.path)


def test_a_device_resized_while_the_job_ran_is_not_published(plain: LoopDevice) -> None:
    """S06, S08: the descriptor tells, whatever the name means by now."""
    sink = open_sink(plain.path)
    sink.preallocate(SIZE)
    os.truncate(plain.backing, SIZE // 2)
    subprocess.run(["losetup", "--set-capacity", plain.path], check=True, timeout=30)
    with pytest.raises(SinkRefusedError, match="changed"):
        sink.publish(SIZE)
    sink.close()
    os.truncate(plain.backing, SIZE)
    subprocess.run(["losetup", "--set-capacity", plain.path], check=True, timeout=30)


def test_a_link_to_a_device_is_followed_once(plain: LoopDevice, tmp_path: Path) -> None:
    """S08: re-pointing a by-id link after the open leads nowhere."""
    link = tmp_path / "by-id"
    link.symlink_to(plain.path)
    sink = open_sink(str(link))
    sink.preallocate(SIZE)
    link.unlink()
    link.symlink_to("/dev/null")
    os.pwrite(sink.buffered_fd, b"x", 1 << 20)
    sink.publish(SIZE)
    sink.close()
    assert plain.read(1, 1 << 20) == b"x"


def test_a_device_inside_a_pool_folder_is_no_file(plain: LoopDevice, tmp_path: Path) -> None:
    """With a pool, a target is a file in it."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "link").symlink_to(plain.path)
    os.mknod(pool / "node", 0o600 | 0o060000, os.stat(plain.path).st_rdev)
    for name in ("link", "node"):
        with pytest.raises(SinkRefusedError):
            open_sink(str(pool / name), beneath=str(pool), overwrite="file")


def test_the_journal_of_a_device_is_keyed_by_its_identity(
    plain: LoopDevice, tmp_path: Path
) -> None:
    """R04: another device never finds this one's journal."""
    sink = open_sink(plain.path)
    here = journal.journal_path(sink, str(tmp_path / "state"))
    assert here is not None
    assert here.folder_fd is None
    assert here.path.startswith(f"{tmp_path}/state/journals/")
    sink.identity["size"] = 7
    assert journal.journal_path(sink, str(tmp_path / "state")) != here
    sink.close()


def test_no_descriptor_is_left_open_by_a_refusal(plain: LoopDevice) -> None:
    """I4: a leaked descriptor would keep the claim."""
    make_ext4(plain)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(SinkRefusedError):
            open_sink(plain.path)
    assert set(os.listdir("/proc/self/fd")) == before
