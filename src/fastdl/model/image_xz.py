# SPDX-License-Identifier: Apache-2.0
"""How large is the unpacked content of an .xz file? Read from the index at the end of each stream.

The .xz file format, 1.2.1: a stream is a header, blocks, the index of their sizes, and a footer
that says how long the index is; streams follow each other, with padding behind them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from fastdl.model.image import NotAtHand, Reader, plausible

_HEADER: Final = 12
_FOOTER: Final = 12
_MAGIC: Final = b"\xfd7zXZ\x00"
_FOOTER_MAGIC: Final = b"YZ"
_STEP: Final = 4096
_NUMBER_MAX: Final = 9
"""Bytes of a number: seven bits in each."""
INDEX_MAX: Final = 4 << 20
"""Bytes of indexes that are read: some 400,000 blocks, of 24 MiB each where threads packed."""
STREAMS_MAX: Final = 16
PADDING_MAX: Final = 64 << 10


class _BrokenError(Exception):
    """The bytes are no indexes of a whole file."""


def unpacked_size(reader: Reader) -> int | None:
    """Bytes that the .xz file behind *reader* unpacks to, by its own account.

    None if its end is not at hand, is broken, or states an impossible size: the decoder, which sees
    every byte, decides in any case.
    """
    if reader.size is None:
        return None
    try:
        return plausible(sum(_streams(reader, reader.size)))
    except (NotAtHand, _BrokenError):
        return None


def _streams(reader: Reader, end: int) -> Iterator[int]:
    """The unpacked size of each stream before *end*, the last one first."""
    left = INDEX_MAX
    for _ in range(STREAMS_MAX):
        end = _before_padding(reader, end)
        footer = _read(reader, end - _FOOTER, _FOOTER)
        flags = footer[8:10]
        if footer[10:] != _FOOTER_MAGIC or _crc(footer[4:10]) != footer[:4]:
            raise _BrokenError
        length = (int.from_bytes(footer[4:8], "little") + 1) * 4
        left -= length
        if left < 0:
            raise _BrokenError
        at = end - _FOOTER - length
        packed, unpacked = _index(_read(reader, at, length))
        end = at - packed - _HEADER
        header = _read(reader, end, _HEADER)
        if header[:6] != _MAGIC or header[6:8] != flags or _crc(flags) != header[8:]:
            raise _BrokenError
        yield unpacked
        if end == 0:
            return
    raise _BrokenError


def _before_padding(reader: Reader, end: int) -> int:
    """Where the last stream before *end* ends: zeros, by fours, may stand behind it."""
    lowest = max(0, end - PADDING_MAX)
    while end > lowest:
        length = min(_STEP, end)
        kept = _read(reader, end - length, length).rstrip(b"\x00")
        # A footer does not end in zeros.
        end -= (length - len(kept)) & ~3
        if kept:
            return end
    raise _BrokenError


def _index(data: bytes) -> tuple[int, int]:
    """(bytes of all blocks, with their padding; bytes that they unpack to) in an index."""
    if data[:1] != b"\x00" or _crc(data[:-4]) != data[-4:]:
        raise _BrokenError
    count, at = _number(data, 1)
    packed = unpacked = 0
    for _ in range(count):
        size, at = _number(data, at)
        packed += (size + 3) & ~3
        size, at = _number(data, at)
        unpacked += size
    if any(data[at:-4]) or len(data) - 4 - at > 3:
        raise _BrokenError
    return packed, unpacked


def _number(data: bytes, at: int) -> tuple[int, int]:
    """(the number at *at*, where the next thing begins)."""
    value = 0
    for n in range(_NUMBER_MAX):
        if at >= len(data) - 4:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return value, at
    raise _BrokenError


def _read(reader: Reader, offset: int, length: int) -> bytes:
    if offset < 0:
        raise _BrokenError
    data = reader.read_at(offset, length)
    if len(data) != length:
        raise _BrokenError
    return data


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
