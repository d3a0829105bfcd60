# SPDX-License-Identifier: Apache-2.0
"""A source that lies on this machine: is it still the file that was opened first?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdl.core.net import Net, Stream, Wakeup
from fastdl.errors import OriginChangedError
from fastdl.model.url import Url
from fastdl.sources.locate import make_mirror

NET = Net(connect_timeout=1, stall_timeout=1, follow_redirects=False, strict=False)


def open_file(path: Path) -> Stream:
    return Stream(NET, make_mirror(Url.parse(str(path))), Wakeup())


def overwrite(path: Path, content: bytes) -> None:
    """Put other bytes into the same file; its time of change is another one for sure."""
    path.write_bytes(content)
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))


def test_a_file_overwritten_between_two_ranges_is_another_source(tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"a" * 2000)
    stream = open_file(source)
    stream.begin(0, 1000)
    assert stream.read(1000) == b"a" * 1000
    overwrite(source, b"b" * 2000)
    with pytest.raises(OriginChangedError):
        stream.begin(1000, 1000)


def test_a_file_overwritten_within_its_last_range_is_another_source(tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"a" * 2000)
    stream = open_file(source)
    stream.begin(0, 2000)
    assert stream.read(1000) == b"a" * 1000
    overwrite(source, b"b" * 2000)
    with pytest.raises(OriginChangedError):
        stream.read(1000)


def test_a_file_that_stays_is_read_in_parts(tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(bytes(range(256)) * 10)
    stream = open_file(source)
    stream.begin(0, 1000)
    first = stream.read(1000)
    stream.begin(1000, 1560)
    assert first + stream.read(1560) == source.read_bytes()
    assert stream.mirror.etag.startswith('"file-')
