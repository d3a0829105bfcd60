# SPDX-License-Identifier: Apache-2.0
"""fuzz_image.py - invariant: the inspectors of VHD, VHDX, VMDK and VDI never raise on any image,
read a bounded number of its bytes, and call no image safe that has no size.

The input is an image without its zeros: 1 byte of options, 8 bytes size, then runs of 8 bytes
offset, 2 bytes length, content. By the options checksums are made right again, as a forger does.
CRC-32C is CRC-32 here: computed in Python, nearly all of the time would go there.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from unittest import mock

from fastdl.model import image_vhd
from fastdl.model.image import Format, ImageInfo
from fastdl.model.image_inspect import inspect

SIZE_MAX = 1 << 44
READ_MAX = 64 << 20
"""More than any table that is worth its memory."""
SEALED = {0x10000: 4096, 0x20000: 4096, 0x30000: 65536, 0x40000: 65536}
"""Of a VHDX: two headers and two region tables, each with a CRC-32C at byte 4."""


class Sparse:
    """An image of which only some bytes exist."""

    distant = False

    def __init__(self, data: bytes) -> None:
        self.size = int.from_bytes(data[1:9], "little") % SIZE_MAX
        self.distant = False
        self.read = 0
        self._runs: list[tuple[int, bytes]] = []
        at = 9
        while at + 10 <= len(data):
            offset, length = struct.unpack_from("<QH", data, at)
            self._runs.append((offset % SIZE_MAX, data[at + 10 : at + 10 + length]))
            at += 10 + length
        if data[:1] and data[0] & 1:
            self._seal()

    def _seal(self) -> None:
        for offset, length in SEALED.items():
            block = bytearray(self._content(offset, length))
            block[4:8] = bytes(4)
            self._runs.append((offset + 4, struct.pack("<I", zlib.crc32(block))))

    def _content(self, offset: int, length: int) -> bytes:
        out = bytearray(length)
        for start, content in self._runs:
            first, last = max(start, offset), min(start + len(content), offset + length)
            if first < last:
                out[first - offset : last - offset] = content[first - start : last - start]
        return bytes(out)

    def read_at(self, offset: int, length: int) -> bytes:
        """As an inspector's reader: shorter at the end only."""
        assert offset >= 0
        assert length >= 0
        length = max(0, min(length, self.size - offset))
        self.read += length
        assert self.read <= READ_MAX, "an image makes its reader read without end"
        return self._content(offset, length)


def _no_qcow2(_reader: object) -> ImageInfo:
    return ImageInfo(format=Format.QCOW2, virtual_size=1)  # C has a target of its own


def _no_peek(_fmt: object, _reader: object) -> bytes:
    return b"disk"  # C has its own target for these as well


def one_input(data: bytes) -> None:
    """Inspect *data*."""
    with mock.patch.object(image_vhd, "crc32c", zlib.crc32):
        found = inspect(Sparse(data), qcow2=_no_qcow2, peek=_no_peek)
    assert found.reasons or found.safe
    assert found.safe or found.refusal is not None
    assert found.virtual_size is None or 0 <= found.virtual_size < 1 << 64


def encoded(image: bytes, *, options: int = 1) -> bytes:
    """*image* as an input: its runs of bytes that are not all zeros."""
    starts = [at for at in range(0, len(image), 64) if any(image[at : at + 64])]
    runs: list[list[int]] = []
    for at, before in zip(starts, [-64, *starts], strict=False):
        if runs and at == before + 64 and runs[-1][1] < 4096:
            runs[-1][1] += 64
        else:
            runs.append([at, 64])
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(runs))
    parts = [struct.pack("<BQ", options, len(image))]
    for at, length in runs:
        content = image[at : at + length]
        parts.append(struct.pack("<QH", at, len(content)) + content)
    return b"".join(parts)
