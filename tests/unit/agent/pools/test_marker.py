# SPDX-License-Identifier: Apache-2.0
"""Can whoever else writes to a pool break what this host says of it?

A shared folder is written to by other hosts; one of them may be hostile, or have gone mad.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.listing import listing
from fastdl.agent.pools import Marker
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.pools.usage import Usage
from fastdl.wire import codec
from fastdl.wire import messages as m

Stranger = Callable[[Path], Any]


def _marker(volume: str, **fields: Any) -> bytes:
    return json.dumps({**asdict(Marker(volume=volume, complete=True, size=5)), **fields}).encode()


def _file(name: str | bytes, data: bytes) -> Stranger:
    def write(folder: Path) -> None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        fd = os.open(os.path.join(os.fsencode(folder), os.fsencode(name)), flags)
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    return write


@pytest.mark.parametrize(
    "stranger",
    [
        _file(".mine.lock", b"9" * 5000),
        _file(".mine.lock", b"9" * 31),
        _file("other.json", _marker("other", virtual_size=10**30)),
        _file("other.json", _marker("other", size=-(10**30))),
        _file("other.json", _marker("other", size=5.5)),
        _file("other.json", _marker("other").replace(b'"size": 5', b'"size": ' + b"9" * 5000)),
        _file("other.json", _marker("other", template="\x1b[2J")),
        _file("other.json", _marker("other", zone="\ud800")),
        _file("other.json", _marker("other", handle="x" * 100_000)),
        _file("other.json", _marker("other", digests={"sha-256": 5})),
        _file("other.json", _marker("other", mirrors=7, sources="x", edges="\n")),
        _file("other.json", b"[" * 100_000),
        _file("a b.json", _marker("a b")),
        _file("a\nb.json", _marker("a\nb")),
        _file("..json", _marker(".")),
        _file("x" * 200 + ".json", _marker("x" * 200)),
        _file(b"\xff.json", _marker("x")),
        lambda folder: os.mkfifo(folder / "other.json"),
        lambda folder: (folder / "other.json").symlink_to("/dev/zero"),
        lambda folder: (folder / "other.json").mkdir(),
    ],
)
def test_a_strangers_file_breaks_no_list(stranger: Stranger, tmp_path: Path) -> None:
    """The manager refuses a message that says what cannot be, and with it all other copies."""
    pool = DirectoryPool(tmp_path, name="p")
    assert pool.id
    folder = tmp_path / ".fastdl"
    _file("mine.json", _marker("mine"))(folder)
    stranger(folder)
    done = listing(pool, Usage(lambda: [pool], libvirt=""))
    assert "mine" in [copy.volume for copy in done.copies]
    message = m.JobResult(job="j", fence=1, kind=m.Kind.COPIES, done=done)
    assert codec.decode(codec.encode(message), limit=1 << 20) == message


def test_what_file_systems_number_is_kept(tmp_path: Path) -> None:
    """Inodes take all 64 bits on some."""
    pool = DirectoryPool(tmp_path, name="p")
    made = Marker(volume="v", complete=True, size=5, inode=2**64 - 1, mtime_ns=-1)
    pool.markers.write(made)
    read = pool.markers.read("v")
    assert read is not None
    assert (read.inode, read.mtime_ns) == (made.inode, made.mtime_ns)
