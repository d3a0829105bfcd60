# SPDX-License-Identifier: Apache-2.0
"""Is what we write a qcow2 image? qemu-img decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdl.agent.machines.qcow2 import Backing, empty
from fastdl.errors import LimitError, SinkRefusedError
from tests.env import images

MIB = 1 << 20


def written(path: Path, size: int, backing: Backing | None = None) -> Path:
    """The image as a file."""
    made = empty(size, backing)
    path.write_bytes(made.head)
    with path.open("r+b") as file:
        file.truncate(made.length)
    return path


@pytest.mark.parametrize("size", [1, 512, MIB, 512 * MIB, 512 * MIB + 1, 64 << 40])
@pytest.mark.parametrize("below", [False, True])
def test_qemu_accepts_it(tmp_path: Path, size: int, below: bool) -> None:
    """Sizes around the edges of its tables, alone and on top of a file."""
    if not images.HAVE_QEMU:
        pytest.skip(images.NEED_QEMU)
    base = tmp_path / "base, with=odd:name"
    base.write_bytes(b"\x5a" * 4096)
    made = written(tmp_path / "d", size, Backing(str(base), "raw") if below else None)
    images.run("qemu-img", "check", "-q", made)
    about = json.loads(images.run("qemu-img", "info", "--output=json", made).stdout)
    assert about["virtual-size"] == -(-size // 512) * 512
    if below:
        assert about["full-backing-filename"] == str(base)
        assert about["backing-filename-format"] == "raw"
        if size >= 4096 and size <= MIB:
            images.run("qemu-img", "convert", "-O", "raw", made, tmp_path / "out")
            content = (tmp_path / "out").read_bytes()
            assert content[:4096] == base.read_bytes()
            assert not any(content[4096:])


def test_what_cannot_be_an_image() -> None:
    """A disk that is too large; a name that is too long, or that a driver would read."""
    with pytest.raises(LimitError):
        empty(1 << 62)
    with pytest.raises(LimitError):
        empty(-(1 << 20))
    for name in ("/" + "x" * 1023, "nbd:localhost", "json:{}", "relative"):
        with pytest.raises(SinkRefusedError):
            empty(MIB, Backing(name, "raw"))
