# SPDX-License-Identifier: Apache-2.0
"""What can a killed job resume from? The durable ranges of the target, and their source.

The rule that makes this true: **a record is appended only after the flush of the data that
it names returned**, and the next append begins only after the flush of this one returned.
So a journal may list less than the disk holds, never more. Held-back bytes are never recorded.

On disk (little-endian)::

    "FDLJRNL1"  u32 length  JSON payload  u64 XXH3-64 of the payload  u32 CRC-32 of all before
    then records of 40 bytes:  u64 sequence  u64 offset  u64 length  u64 XXH3-64 of the data
                               u32 CRC-32 of the record, seeded with the header's  u32 zero

The seed binds a record to its header: one copied from another job's journal is no record.
The digests here detect corruption; they do not protect against an attacker.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Self

from fastdl import fs
from fastdl.engine.journal_file import JournalFile, Location, default_state_dir
from fastdl.errors import JournalError, SinkBusyError
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.base import Identity, Sink, sink_error
from fastdl.sinks.paths import journal_name

MAX_HEADER_BYTES = 1 << 20
MAX_RECORDS = 1 << 20
MAX_BATCH = 64
"""Records in one append, so the most that a power cut can tear."""

_VERSION = 1
_MAGIC = b"FDLJRNL1"
_START = struct.Struct("<8sI")
_SUM = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_BODY = struct.Struct("<QQQQ")
_TAIL = struct.Struct("<II")
RECORD_BYTES = _BODY.size + _TAIL.size
_MAX_FILE = _START.size + MAX_HEADER_BYTES + _SUM.size + _CRC.size + MAX_RECORDS * RECORD_BYTES
_OFFSET_MAX = (1 << 63) - 1


class Header(NamedTuple):
    """What all records of a journal are about.

    job         the caller's key of sources and options; another key is another job
    target      `Sink.identity`
    validators  origin (no userinfo, no query) → its validators, e.g. {"etag": …, "size": …}
    size        bytes of the source, None while unknown
    digests     algorithm → hexadecimal, as asked for
    block_size  bytes that the job's ranges are cut in
    boot_id     of the kernel that wrote it; for people, decides nothing
    """

    job: str
    target: Identity
    validators: dict[str, dict[str, str]]
    size: int | None
    digests: dict[str, str]
    block_size: int
    boot_id: str = ""


class Record(NamedTuple):
    """[offset, offset + length) of the target is durable; *digest* is its XXH3-64."""

    offset: int
    length: int
    digest: int


class Journal(NamedTuple):
    """A parsed journal.

    length  bytes of the file that are sound, the torn tail cut off
    seed    what the CRCs of its records begin with
    """

    header: Header
    records: tuple[Record, ...]
    length: int
    seed: int


def digest_of(data: bytes | bytearray | memoryview) -> int:
    """The digest that a record carries for *data*."""
    import xxhash  # loads hashlib: only where there is something to digest

    return int(xxhash.xxh3_64_intdigest(data))


def encode_header(header: Header) -> bytes:
    """The first bytes of a journal."""
    for origin in header.validators:
        if "@" in origin or "?" in origin:
            raise ValueError("an origin in a journal must not carry userinfo or a query")
    payload = json.dumps(
        {"version": _VERSION, **header._asdict()}, sort_keys=True, separators=(",", ":")
    ).encode()
    if len(payload) > MAX_HEADER_BYTES:
        raise ValueError("the journal's header is too large")
    start = _START.pack(_MAGIC, len(payload)) + payload + _SUM.pack(digest_of(payload))
    return start + _CRC.pack(zlib.crc32(start))


def encode_record(sequence: int, record: Record, seed: int) -> bytes:
    """Record number *sequence* of the journal whose header has the CRC *seed*."""
    body = _BODY.pack(sequence, *record)
    return body + _TAIL.pack(zlib.crc32(body, seed), 0)


def parse(data: bytes) -> Journal:
    """Read a journal, or raise JournalError. A torn last append is ignored, nothing else is."""
    if len(data) > _MAX_FILE:
        raise JournalError("the journal is larger than any that fastdl writes")
    header, at, seed = _parse_header(data)
    records: list[Record] = []
    while at + RECORD_BYTES <= len(data):
        record = _parse_record(data[at : at + RECORD_BYTES], len(records), seed)
        if record is None:
            if len(data) - at > MAX_BATCH * RECORD_BYTES:
                raise JournalError(f"record {len(records)} of the journal is damaged")
            break
        records.append(record)
        at += RECORD_BYTES
    return Journal(header, tuple(records), at, seed)


def _parse_header(data: bytes) -> tuple[Header, int, int]:
    """The header, the offset of the records, and the seed of their CRCs."""
    if len(data) < _START.size:
        raise JournalError("the journal ends inside its header")
    magic, length = _START.unpack_from(data)
    if magic != _MAGIC:
        raise JournalError("this is not a journal of this version of fastdl")
    end = _START.size + length + _SUM.size
    if length > MAX_HEADER_BYTES or end + _CRC.size > len(data):
        raise JournalError("the journal ends inside its header")
    payload = data[_START.size : _START.size + length]
    (digest,) = _SUM.unpack_from(data, end - _SUM.size)
    (seed,) = _CRC.unpack_from(data, end)
    if seed != zlib.crc32(data[:end]) or digest != digest_of(payload):
        raise JournalError("the journal's header is damaged")
    try:
        return _header_from(json.loads(payload)), end + _CRC.size, seed
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise JournalError("the journal's header makes no sense") from None


def _header_from(fields: Any) -> Header:
    """Values in, Header out; ValueError, TypeError or AttributeError for what is none."""
    if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
        raise ValueError("version")
    header = Header(**fields)
    texts = (header.job, header.boot_id, *header.digests, *header.digests.values())
    names = [*header.target, *header.validators]
    for origin in header.validators.values():
        names += [*origin, *origin.values()]
    if not all(isinstance(text, str) for text in (*texts, *names)):
        raise TypeError("text")
    if not all(type(value) in {int, str} for value in header.target.values()):
        raise TypeError("target")
    if header.size is not None and not (type(header.size) is int and header.size >= 0):
        raise ValueError("size")
    if type(header.block_size) is not int or header.block_size <= 0:
        raise ValueError("block_size")
    return header


def _parse_record(data: bytes, sequence: int, seed: int) -> Record | None:
    """The record, or None if incomplete; JournalError if complete but wrong."""
    crc, zero = _TAIL.unpack_from(data, _BODY.size)
    if crc != zlib.crc32(data[: _BODY.size], seed) or zero != 0:
        return None
    number, *fields = _BODY.unpack_from(data)
    record = Record._make(fields)
    if number != sequence:
        raise JournalError(f"record {sequence} of the journal has the sequence number {number}")
    if record.length == 0 or record.offset + record.length > _OFFSET_MAX:
        raise JournalError(f"record {sequence} of the journal names an impossible range")
    return record


class Writer:
    """The one writer of a journal, from ``create`` or ``resume`` to ``close`` or ``remove``.

    ``count``: how many records it has.
    A journal is optional: if it cannot be written (full or read-only disk) the job continues
    without. ``warning`` then reports it; ``append`` and ``flush`` have no effect.
    """

    def __init__(self, file: JournalFile, fd: int, seed: int, count: int) -> None:
        self._file = file
        self._fd = fd
        self._seed = seed
        self.count = count
        self.warning: str | None = None
        self._flushed = True

    @classmethod
    def create(cls, file: JournalFile, header: Header) -> Self:
        """Start a journal; an old one that nobody holds is removed first.

        Raises SinkBusyError where another process holds it, SinkIOError where its folder cannot
        be flushed: what else is in there is not safe either.
        """
        data = encode_header(header)
        (seed,) = _CRC.unpack_from(data, len(data) - _CRC.size)
        writer = cls(file, -1, seed, 0)
        try:
            writer._fd = file.create()
            _write_all(writer._fd, data)
            os.fsync(writer._fd)
        except OSError as error:
            if writer._fd >= 0:
                file.remove()
            writer._give_up(error)
            return writer
        try:
            file.sync()
        except OSError as error:
            file.remove()
            writer.close()
            raise sink_error(error, f"flushing the folder of {file.path}") from None
        return writer

    @classmethod
    def resume(cls, file: JournalFile) -> tuple[Journal, Self] | None:
        """Read the journal and continue writing it; None if there is none.

        Raises JournalError (damaged, not ours) and SinkBusyError (held by another process).
        """
        fd = file.open()
        if fd is None:
            return None
        try:
            journal = parse(_read_all(fd))
            os.ftruncate(fd, journal.length)
            os.lseek(fd, journal.length, os.SEEK_SET)
        except OSError as error:
            fs.close(fd)
            raise JournalError(f"{file.path}: {error.strerror}") from None
        except BaseException:
            fs.close(fd)
            raise
        return journal, cls(file, fd, journal.seed, len(journal.records))

    def append(self, records: Sequence[Record]) -> None:
        """Record ranges whose data's flush **has returned**: a kill does not take the records away
        any more, a power cut may until ``flush``."""
        for start in range(0, len(records), MAX_BATCH):
            batch = records[start : start + MAX_BATCH]
            self.flush()
            if self._fd < 0:
                return
            try:
                if self.count + len(batch) > MAX_RECORDS:
                    raise OSError(errno.EFBIG, "it has reached its maximum size")
                _write_all(
                    self._fd,
                    b"".join(
                        encode_record(number, record, self._seed)
                        for number, record in enumerate(batch, self.count)
                    ),
                )
            except OSError as error:
                self._give_up(error)
                return
            self.count += len(batch)
            self._flushed = False

    def flush(self) -> None:
        """Make durable what was appended."""
        if self._fd < 0 or self._flushed:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._give_up(error)
        self._flushed = True

    def close(self) -> None:
        """Stop writing; the journal stays for a resume."""
        if self._fd >= 0:
            fs.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """The job is over: remove the journal, durably before its name can be used again."""
        self._file.remove()
        self.close()

    def give_up(self, why: str) -> None:
        """The journal on disk stays valid: at worst its last append is torn."""
        self.warning = f"a stopped download cannot be resumed from here on: {why}"
        self.close()

    def _give_up(self, error: OSError) -> None:
        self.give_up(f"the journal {self._file.path} cannot be written: {error.strerror}")


def journal_path(sink: Sink, state_dir: str | None) -> Location | None:
    """The location of *sink*'s journal: next to a file, in *state_dir* for a device.

    *state_dir*: None for `default_state_dir`. None if the target cannot be resumed.
    A file's location borrows the sink's folder: use it before the sink is closed.
    """
    if sink.name is not None:
        return Location(journal_name(sink.name), sink.folder_fd)
    if sink.fd < 0 or sink.kind == "stream":  # nothing to read back
        return None
    return state_path(sink.identity, state_dir, "journal")


def state_path(identity: Identity, state_dir: str | None, suffix: str) -> Location:
    """Where what is kept of a target without a folder lies; *state_dir* as for `journal_path`."""
    key = digest_of(json.dumps(identity, sort_keys=True).encode())
    return Location(f"{state_dir or default_state_dir()}/journals/{key:016x}.{suffix}")


def read_target(file: JournalFile) -> Identity | None:
    """What the journal in *file* is about; None where there is none, or somebody holds it."""
    try:
        fd = file.open()
        if fd is None:
            return None
        try:
            return parse(_read_all(fd)).header.target
        finally:
            fs.close(fd)
    except (JournalError, SinkBusyError, OSError):
        return None


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read_all(fd: int) -> bytes:
    parts = []
    room = _MAX_FILE + 1
    while room > 0 and (part := os.read(fd, min(room, 1 << 20))):
        parts.append(part)
        room -= len(part)
    return b"".join(parts)
