# SPDX-License-Identifier: Apache-2.0
"""What a job notes just before its target becomes valid, so that its next run knows its own work.

A device shows nothing of an image until its ends are released, a file nothing until it is
renamed. A job that is killed from then on leaves a target that looks like somebody else's. The
note says whose it is: what was asked for, and what is about to show. For a device it is durable
before the first byte of the ends, and stays; for a file it goes when the name is there.

On disk: "FDLRLSE1"  u32 length  JSON payload  u32 CRC-32 of all before  (little-endian). One that
is not whole is none: then nothing was released yet.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastdl import fs
from fastdl.engine.journal_file import JournalFile
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.base import HOLD_BYTES, Identity

if TYPE_CHECKING:
    from fastdl.core.sink import Sink as CoreSink
    from fastdl.engine.options import FetchOptions
    from fastdl.engine.source.facts import SourceFacts

_MAGIC = b"FDLRLSE1"
_VERSION = 1
_START = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
_SUM_BYTES = 8
MAX_BYTES = 1 << 20
_SIZE_MAX = (1 << 63) - 1
_FIELDS = ("asked", "target", "known", "showing", "stamp", "block", "ends")

Read = Callable[[int, int], bytes]
"""(length, offset) → bytes of the target."""


class End(NamedTuple):
    """[offset, offset + length) of a device and the XXH3-64 of each block of what goes there."""

    offset: int
    length: int
    sums: bytes


class Showing(NamedTuple):
    """What the result says of the target, once it shows."""

    source_bytes: int
    target_bytes: int
    format: str
    virtual_size: int | None
    landing: str


class Release(NamedTuple):
    """One note. ``showing`` is None, and ``ends`` are zeros, while nothing is released yet.

    asked   what makes two commands the same job, see ``of_source``
    known   what was known of the source: another content has other digests, size or validators
    stamp   a file's time of change in ns, 0 for a device
    block   bytes that the device writes as a whole or not at all
    """

    asked: dict[str, Any]
    target: Identity
    known: dict[str, Any]
    showing: Showing | None
    stamp: int
    block: int
    ends: tuple[End, ...]

    def is_for(self, source: Release) -> bool:
        """Whether *source* (see ``of_source``) asks for this, and nothing tells it from that."""
        then, now = self.known, source.known
        if self.asked != source.asked or then["size"] != now["size"]:
            return False
        if now["digests"] or then["digests"]:
            return bool(then["digests"] == now["digests"])
        # Without any validator the earlier run is as right as this one could be.
        both = then["validators"].keys() & now["validators"].keys()
        return all(then["validators"][origin] == now["validators"][origin] for origin in both)

    def shows(self, read: Read) -> bool | None:
        """Whether the device holds these ends: True; in part, and zeros else: None; or not."""
        whole = self.showing is not None
        for end in self.ends:
            data = read(end.length, end.offset)
            for number, at in enumerate(range(0, len(data), self.block)):
                piece = data[at : at + self.block]
                if _sum(piece) != end.sums[number * _SUM_BYTES : (number + 1) * _SUM_BYTES]:
                    if piece.strip(b"\0"):
                        return False
                    whole = False
        return True if whole else None


def of_source(facts: SourceFacts, options: FetchOptions) -> Release:
    """What a job asks for, as the beginning of a note."""
    from fastdl.engine.checkpoint import bytes_asked_for, validators_of  # cyclic

    return Release(
        asked={
            **bytes_asked_for(facts),
            "source_format": options.source_format,
            "target_format": options.target_format,
        },
        target={},
        known={
            "size": facts.size,
            "digests": facts.digests.to_dict(),
            "validators": validators_of(facts),
        },
        showing=None,
        stamp=0,
        block=1,
        ends=(),
    )


def begun(source: Release, target: Identity, capacity: int) -> Release:
    """The note of a job that takes possession of a device of *capacity* bytes."""
    length = min(HOLD_BYTES, capacity)
    zeros = End(0, length, _sum(bytes(length)))
    return source._replace(target=target, showing=None, block=length, ends=(zeros,))


def released(
    source: Release, target: Identity, showing: Showing, core_sink: CoreSink | None, block: int
) -> Release:
    """The note of what *core_sink* is about to release; None: it holds nothing back."""
    size = showing.target_bytes
    head = min(HOLD_BYTES, size)
    tail = min(HOLD_BYTES, size - head)
    ends = []
    for offset, length in ((0, head), (size - tail, tail)):
        data = core_sink.held(offset, length) if core_sink and length else None
        if data is not None:
            pieces = (data[at : at + block] for at in range(0, length, block))
            ends.append(End(offset, length, b"".join(map(_sum, pieces))))
    return source._replace(target=target, showing=showing, block=block, ends=tuple(ends))


def encode(note: Release) -> bytes:
    """*note* as it lies on disk."""
    import binascii  # start-up: not for what ends in one run

    plain = note._asdict()
    plain["showing"] = note.showing._asdict() if note.showing else None
    plain["ends"] = [
        [e.offset, e.length, binascii.b2a_base64(e.sums, newline=False).decode()] for e in note.ends
    ]
    payload = json.dumps({"version": _VERSION, **plain}, separators=(",", ":")).encode()
    start = _START.pack(_MAGIC, len(payload)) + payload
    return start + _CRC.pack(zlib.crc32(start))


def parse(data: bytes) -> Release | None:
    """The note in *data*; None for what is not a whole one of this version."""
    if not _START.size + _CRC.size < len(data) <= MAX_BYTES:
        return None
    magic, length = _START.unpack_from(data)
    body, crc = data[: -_CRC.size], _CRC.unpack_from(data, len(data) - _CRC.size)[0]
    if magic != _MAGIC or len(body) != _START.size + length or zlib.crc32(body) != crc:
        return None
    try:
        return _from(json.loads(body[_START.size :]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _from(plain: Any) -> Release:
    """Values in, note out; one of ``parse``'s errors for what is none."""
    import binascii

    if plain["version"] != _VERSION or plain.keys() != {"version", *_FIELDS}:
        raise ValueError("version")
    ends = tuple(
        End(_size(at), _size(length), binascii.a2b_base64(text, strict_mode=True))
        for at, length, text in plain["ends"]
    )
    showing = plain["showing"]
    note = Release(
        asked=_object(plain["asked"]),
        target=_object(plain["target"]),
        known=_object(plain["known"]),
        showing=None if showing is None else Showing(**showing),
        stamp=_size(plain["stamp"]),
        block=_size(plain["block"]) or 1,
        ends=ends,
    )
    if note.known.keys() != {"size", "digests", "validators"} or len(ends) > 2:
        raise ValueError("fields")
    for name in ("validators", "digests"):
        _object(note.known[name])
    for end in ends:
        blocks = -(-end.length // note.block)
        if end.length > HOLD_BYTES or len(end.sums) != blocks * _SUM_BYTES:
            raise ValueError("ends")
    if note.showing is not None:
        shown = note.showing
        for size in (shown.source_bytes, shown.target_bytes, shown.virtual_size or 0):
            _size(size)
        if not isinstance(shown.format, str) or not isinstance(shown.landing, str):
            raise TypeError("text")
    return note


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _SIZE_MAX:
        raise ValueError("a size")
    return value


def _sum(data: bytes) -> bytes:
    import xxhash  # loads hashlib: only where there is something to digest

    return xxhash.xxh3_64_digest(data)


def read_note(file: JournalFile) -> Release | None:
    """The note in *file*; None where there is none that can be believed, or somebody writes it."""
    from fastdl.errors import JournalError, SinkBusyError  # rare

    try:
        fd = file.open()
    except (JournalError, SinkBusyError):
        return None
    if fd is None:
        return None
    try:
        data = b""
        while len(data) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(data))):
            data += more
        return parse(data)
    except OSError:
        return None
    finally:
        fs.close(fd)


def write_note(file: JournalFile, note: Release, *, durable: bool) -> None:
    """Put *note* into *file*, *durable* on return where that is asked for. OSError."""
    fd = file.create()
    try:
        data = encode(note)
        while data:
            data = data[os.write(fd, data) :]
        if durable:
            os.fsync(fd)
            file.sync()
    finally:
        fs.close(fd)
