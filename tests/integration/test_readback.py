# SPDX-License-Identifier: Apache-2.0
"""Does ``--verify-readback`` notice a target that does not hold what was written to it?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build
from tests.env.landing import PACK, PATTERN, Bench, raw_of, sha256
from tests.env.loopdev import LoopDevice, attached, loop_device
from tests.env.nbd import nbdfuse
from tests.env.origin import pseudo_random
from tests.env.tmpfs import tmpfs

IMAGE = pseudo_random(31, 9 * MIB + 512)
CHECKSUM = f"sha-256:{sha256(IMAGE)}"
SIZE = 16 * MIB

_LYING = """
import nbdkit
API_VERSION = 2
disk = bytearray(bytes([0xee]) * {size})
def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS
def open(readonly): return 1
def get_size(h): return len(disk)
def can_flush(h): return True
def flush(h, flags): pass
def pwrite(h, buf, offset, flags): disk[offset:offset + len(buf)] = buf
def zero(h, count, offset, flags): disk[offset:offset + count] = bytes(count)
def pread(h, buf, offset, flags):
    part = bytearray(disk[offset:offset + len(buf)])
    at = {flip} - offset
    if 0 <= at < len(part) and disk[{flip}] != 0xee:
        part[at] ^= 0x10
    buf[:] = part
"""


@contextlib.contextmanager
def lying_disk(folder: Path, flip: int) -> Iterator[Path]:
    """A FUSE file that flips one bit of the byte at *flip* once it has been written to."""
    script = folder / "lying.py"
    script.write_text(_LYING.format(size=SIZE, flip=flip))
    command = ["nbdkit", "-s", "--exit-with-parent", "python", str(script)]
    with nbdfuse(folder, command) as (disk, _):
        yield disk


@pytest.mark.parametrize("where", ["file", "tmpfs", "device"])
def test_a_good_target_passes(bench: Bench, where: str, tmp_path: Path) -> None:
    """O_DIRECT files, tmpfs (no O_DIRECT), devices: read back and equal."""
    url = bench.url(IMAGE, name="i.raw")
    words = ("--verify-readback", "--checksum", CHECKSUM)
    with contextlib.ExitStack() as stack:
        if where == "device":
            device = stack.enter_context(loop_device(tmp_path, size=SIZE))
            device.fill(PATTERN)
            done = bench.get(device.path, url, *words)
            assert done.code == 0, done
            assert device.read(len(IMAGE)) == IMAGE
            return
        folder = bench.pool
        if where == "tmpfs":
            stack.enter_context(tmpfs(folder, "32m"))
        done = bench.get(folder / "i.raw", url, *words)
        assert done.code == 0, done
        assert (folder / "i.raw").read_bytes() == IMAGE


@pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
@pytest.mark.parametrize("kind", ["qcow2", "gz"])
def test_a_converted_image_is_read_back_too(
    bench: Bench, device: LoopDevice, tmp_path: Path, kind: str
) -> None:
    """Zeros that were commanded, clusters that were decoded: all of it is compared."""
    path = build(tmp_path / "i.qcow2", Recipe(size=12 * MIB, compressed=True, seed=9))
    disk = raw_of(path)
    file = path.read_bytes() if kind == "qcow2" else PACK["gz"](disk)
    done = bench.get(device.path, bench.url(file, name=f"i.{kind}"), "--verify-readback")
    assert done.code == 0, done
    assert device.read(len(disk)) == disk


@pytest.mark.parametrize(
    "flip", [5000, 4 * MIB + 1, len(IMAGE) - 100], ids=["head", "body", "tail"]
)
def test_a_flipped_bit_on_the_device_is_found(bench: Bench, tmp_path: Path, flip: int) -> None:
    """S13: what the device gives back is not what it took; nothing valid is left."""
    url = bench.url(IMAGE, name="i.raw")
    # Direct: past the page cache of the file below.
    with lying_disk(tmp_path, flip) as disk, attached(disk, "--direct-io=on") as node:
        done = bench.get(node, url, "--checksum", CHECKSUM, "--verify-readback")
        assert (done.code, done.classes) == (31, ["SINK_IO"]), done
        assert "does not hold what was written" in done.stderr
        with open(node, "rb") as back:
            head = bytearray(back.read(MIB))
        if flip < MIB:  # the lie itself shows in the zeroed head
            head[flip] = 0
        assert not any(head)
