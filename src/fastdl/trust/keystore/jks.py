# SPDX-License-Identifier: Apache-2.0
"""What is inside a JKS keystore, and how is a certificate added to it or taken out?

Layout: magic, version, count, entries, SHA-1 over the passphrase, a fixed phrase and all
bytes before it. Entries are kept as the slices of the file they are: nothing but the
count and the digest changes when one is added or removed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, replace
from typing import Self

from fastdl.errors import KeystoreAuthError, KeystoreCorruptError
from fastdl.trust.alias import fold
from fastdl.trust.keystore.entry import Entry

MAGIC = b"\xfe\xed\xfe\xed"
JCEKS_MAGIC = b"\xce\xce\xce\xce"

_HEADER = struct.Struct(">4sII")
_WHITENER = b"Mighty Aphrodite"  # mixed into the digest by the format's definition
_DIGEST_SIZE = 20
_KEY_TAG, _TRUSTED_TAG = 1, 2
_MAX_ENTRIES = 65_536
_MAX_CHAIN = 1_024


@dataclass(frozen=True, slots=True)
class _Slot:
    entry: Entry
    raw: bytes


@dataclass(frozen=True, slots=True)
class Jks:
    """A JKS keystore (version 1 or 2) taken apart."""

    version: int
    slots: tuple[_Slot, ...]
    original: bytes | None

    @classmethod
    def parse(cls, data: bytes, passphrase: str) -> Self:
        """The store in *data*; KeystoreCorruptError, or KeystoreAuthError for the digest alone."""
        if len(data) < _HEADER.size + _DIGEST_SIZE:
            raise _damaged("it is truncated")
        magic, version, count = _HEADER.unpack_from(data)
        if magic != MAGIC or version not in (1, 2):
            raise _damaged(f"version {version} is unknown")
        if count > _MAX_ENTRIES:
            raise _damaged(f"it claims {count} entries")
        body = data[:-_DIGEST_SIZE]
        reader = _Reader(body, _HEADER.size)
        slots = tuple(_read_slot(reader, version) for _ in range(count))
        if reader.at != len(body):
            raise _damaged("its entries do not end where the file does")
        if not hmac.compare_digest(_digest(body, passphrase), data[-_DIGEST_SIZE:]):
            raise KeystoreAuthError(
                "the keystore's passphrase is wrong (or the file was altered without it)"
            )
        return cls(version=version, slots=slots, original=data)

    def entries(self) -> list[Entry]:
        """The entries in the order of the file."""
        return [slot.entry for slot in self.slots]

    def with_trusted(self, alias: str, certificate: bytes, *, now_ms: int) -> Self:
        """This store plus one trusted certificate; Java stores JKS aliases in lower case."""
        name = fold(alias)
        kind = _utf("X.509") if self.version > 1 else b""
        raw = (
            struct.pack(">I", _TRUSTED_TAG)
            + _utf(name)
            + struct.pack(">Q", now_ms)
            + kind
            + struct.pack(">I", len(certificate))
            + certificate
        )
        slot = _Slot(Entry(name, "trusted", certificate), raw)
        return replace(self, slots=(*self.slots, slot), original=None)

    def without_trusted(self, alias: str) -> Self:
        """This store minus the trusted certificate under *alias*."""
        kept = tuple(
            slot
            for slot in self.slots
            if not (slot.entry.kind == "trusted" and slot.entry.key == fold(alias))
        )
        return self if len(kept) == len(self.slots) else replace(self, slots=kept, original=None)

    def encode(self, passphrase: str) -> bytes:
        """The file's bytes."""
        if self.original is not None:
            return self.original
        body = _HEADER.pack(MAGIC, self.version, len(self.slots))
        body += b"".join(slot.raw for slot in self.slots)
        return body + _digest(body, passphrase)


class _Reader:
    """Takes bytes from the front; a claim beyond the end is damage."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _damaged("an entry claims more bytes than there are")
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def utf(self) -> str:
        raw = self.take(int.from_bytes(self.take(2), "big"))
        try:  # Java's modified UTF-8: NUL as two bytes, surrogates one by one
            text = raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _damaged("an alias is not text") from None


def _read_slot(reader: _Reader, version: int) -> _Slot:
    start = reader.at
    tag = reader.u32()
    alias = reader.utf()
    reader.take(8)  # when it was made, in milliseconds
    if tag == _TRUSTED_TAG:
        entry = Entry(alias, "trusted", _read_certificate(reader, version))
    elif tag == _KEY_TAG:
        reader.take(reader.u32())  # the encrypted private key, passed through as it is
        chain_length = reader.u32()
        if chain_length > _MAX_CHAIN:
            raise _damaged(f"a chain claims {chain_length} certificates")
        chain = [_read_certificate(reader, version) for _ in range(chain_length)]
        entry = Entry(alias, "key", chain[0] if chain else None)
    else:
        raise _damaged(f"entry kind {tag} is unknown")
    return _Slot(entry, reader.data[start : reader.at])


def _read_certificate(reader: _Reader, version: int) -> bytes:
    if version > 1:
        reader.utf()
    return reader.take(reader.u32())


def _utf(text: str) -> bytes:
    """Java's modified UTF-8: surrogates one by one."""
    units = text.encode("utf-16-be", "surrogatepass")
    raw = b"".join(
        chr(int.from_bytes(units[at : at + 2], "big")).encode("utf-8", "surrogatepass")
        for at in range(0, len(units), 2)
    )
    return struct.pack(">H", len(raw)) + raw


def _digest(body: bytes, passphrase: str) -> bytes:
    mixed = passphrase.encode("utf-16-be") + _WHITENER + body
    return hashlib.sha1(mixed, usedforsecurity=False).digest()


def _damaged(why: str) -> KeystoreCorruptError:
    return KeystoreCorruptError(f"the JKS keystore is damaged: {why}")
