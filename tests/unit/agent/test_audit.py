# SPDX-License-Identifier: Apache-2.0
"""What does an audit say of a copy, and what follows from it?"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastdl.agent.audit import _read, audit, ranges
from fastdl.agent.commands import AUDITS_MAX, Commands
from fastdl.agent.piece_lists import PieceLists
from fastdl.agent.pools import Image, Marker, Usage, Volume
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.present import before
from fastdl.errors import SinkRefusedError
from fastdl.wire import messages as m
from fastdl.wire.messages import AuditDone

CONTENT = hashlib.shake_128(b"copy").digest((3 << 20) + 4711)
USAGE = Usage(lambda: (), libvirt="")


class Copy:
    """A pool with one published copy."""

    volume = Volume("t")

    def __init__(self, folder: Path, **marker: Any) -> None:
        self.pool = DirectoryPool(folder, name="p")
        folder.mkdir()
        with self.pool.place(self.volume, Image(source_size=len(CONTENT))) as placement:
            Path(placement.target).write_bytes(CONTENT)
        known = {
            "volume": "t",
            "complete": True,
            "landing": "same",
            "digests": {"sha-256": hashlib.sha256(CONTENT).hexdigest()},
        }
        made = self.pool.seal(self.volume, Marker(**(known | marker)))
        self.pool.markers.write(made)
        self.pool.publish(self.volume, made, replace=False)
        self.path = folder / "t"

    def flip(self, offset: int) -> None:
        """One bit, with no trace in the file's time."""
        seen = self.path.stat()
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([CONTENT[offset] ^ 1]))
        os.utime(self.path, ns=(seen.st_atime_ns, seen.st_mtime_ns))

    def audit(self) -> AuditDone:
        """Without a manager's list."""
        return asyncio.run(audit(self.pool, self.volume, USAGE, None))

    def ready(self) -> bool:
        """Whether a download would leave it as it is."""
        return before(self.pool, self.volume, None, USAGE).ready is not None


def test_a_file_system_that_refuses_direct_reads_is_read_all_the_same(tmp_path: Path) -> None:
    """It may take the flag when the file is opened; an odd offset is refused the same way."""
    copy = Copy(tmp_path / "p")
    fd = os.open(copy.path, os.O_RDONLY | os.O_DIRECT)
    try:
        memory = memoryview(bytearray(5000))
        with pytest.raises(OSError, match="Invalid argument"):
            os.preadv(fd, [memory], 1)
        assert _read(fd, memory, 1, 5000) == 5000
        assert memory == CONTENT[1:5001]
    finally:
        os.close(fd)


def test_a_damaged_copy_is_replaced_by_the_next_download(tmp_path: Path) -> None:
    """Although its size and its time are those of what was published."""
    copy = Copy(tmp_path / "p")
    assert (copy.audit().state, copy.audit().bytes) == ("intact", len(CONTENT))
    copy.flip(len(CONTENT) - 1)
    assert copy.ready()
    done = copy.audit()
    assert (done.state, done.pieces, done.wrong) == ("damaged", 0, ())
    found = before(copy.pool, copy.volume, None, USAGE)
    assert (found.ready, found.why) == (None, done.why)


def test_what_is_right_again_is_intact(tmp_path: Path) -> None:
    """Whoever put it right; the audit's note goes."""
    copy = Copy(tmp_path / "p")
    copy.flip(7)
    assert copy.audit().state == "damaged"
    copy.path.write_bytes(CONTENT)
    assert copy.audit().state == "intact"
    assert copy.ready()


def test_a_truncated_copy_is_damaged(tmp_path: Path) -> None:
    """The bytes that are missing count as those that cannot be read."""
    copy = Copy(tmp_path / "p")
    os.truncate(copy.path, 1000)
    done = copy.audit()
    assert (done.state, done.bytes) == ("damaged", 1000)
    assert f"{len(CONTENT) - 1000} of its bytes cannot be read" in done.why


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        ({"landing": "qcow2-to-raw"}, "converted or unpacked"),
        ({"landing": ""}, "converted or unpacked"),
        ({"digests": {"md5": "ab" * 16}}, "without a SHA-256"),
        ({"digests": {}}, "without a SHA-256"),
    ],
)
def test_without_a_digest_of_its_own_nothing_is_known(
    tmp_path: Path, marker: dict[str, Any], why: str
) -> None:
    """The source's digest says nothing of what was made from it; a weak one proves nothing."""
    copy = Copy(tmp_path / "p", **marker)
    copy.flip(7)
    assert (copy.audit().state, why in copy.audit().why) == ("unknown", True)
    assert copy.ready()


def test_what_is_not_a_copy(tmp_path: Path) -> None:
    """Nothing, somebody's file, a machine's disk."""
    copy = Copy(tmp_path / "p")
    assert asyncio.run(audit(copy.pool, Volume("none"), USAGE, None)).state == "absent"
    (copy.pool.path / "other").write_bytes(b"x")
    copy.pool.markers.write(Marker(volume="disk", complete=True, machine="vm1"))
    for name in ("other", "disk"):
        with pytest.raises(SinkRefusedError):
            asyncio.run(audit(copy.pool, Volume(name), USAGE, None))


def test_a_copy_that_is_being_written_is_not_marked(tmp_path: Path) -> None:
    """Its writer knows better; the audit's result is of what was there."""
    copy = Copy(tmp_path / "p")
    copy.flip(7)
    with copy.pool.markers.lock("t"):
        assert copy.audit().state == "damaged"
    assert copy.ready()


async def test_many_audits_leave_threads_to_the_rest(tmp_path: Path) -> None:
    """They take minutes; results, heartbeats and revocations need threads, too."""
    copy, slow = Copy(tmp_path / "p"), Slow()
    host: Any = SimpleNamespace(pool=lambda _id: copy.pool, usage=slow)
    commands = Commands(host, PieceLists(lambda _message: True))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AUDITS_MAX + 1))
    args = m.AuditArgs(pool="p", volume="t")

    def one(number: int) -> asyncio.Task[m.Done]:
        command = m.Command(job=str(number), kind=m.Kind.AUDIT, fence=1, args=args)
        return asyncio.create_task(commands.perform(command, print, print))

    running = [one(number) for number in range(AUDITS_MAX + 3)]
    try:
        await eventually_begun(slow)
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "a result is stored") == "a result is stored"
    finally:
        slow.go_on.set()
    async with asyncio.timeout(10):
        done = await asyncio.gather(*running)
    assert {getattr(one, "state", None) for one in done} == {"intact"}


class Slow:
    """Finds no users, when it may."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Event()

    def of(self, _target: object) -> tuple[str, ...]:
        """Called in a thread of each audit."""
        self.begun += 1
        self.go_on.wait(20)
        return ()


async def eventually_begun(slow: Slow) -> None:
    async with asyncio.timeout(10):
        while slow.begun < AUDITS_MAX:
            await asyncio.sleep(0.01)


def test_ranges() -> None:
    """Neighbours together, and not without end."""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert ranges(list(range(0, 8000, 2))).endswith("28, 30, …")
