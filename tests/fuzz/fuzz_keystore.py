# SPDX-License-Identifier: Apache-2.0
"""fuzz_keystore.py - invariant: a JKS or PKCS#12 file is refused as damaged or unreadable, or
another certificate can be added and removed with every entry unchanged.

The first byte of the input says whether a JKS gets the digest that opens it, as from somebody who
knows the passphrase; the rest is the file.
"""

from __future__ import annotations

import hashlib

from fastdl.errors import KeystoreAuthError, KeystoreCorruptError
from fastdl.trust.keystore.entry import Entry
from fastdl.trust.keystore.store import parse

PASSPHRASE = "changeit"
NEW = Entry("fuzz-new", "trusted", b"\x30\x03\x02\x01\x00")


def one_input(data: bytes) -> None:
    """Read *data* as a keystore file, and edit it."""
    sealed, file = data[:1] == b"\1", data[1:]
    if sealed:
        file += hashlib.sha1(PASSPHRASE.encode("utf-16-be") + b"Mighty Aphrodite" + file).digest()
    try:
        document = parse(file, PASSPHRASE)
    except (KeystoreAuthError, KeystoreCorruptError):
        return
    assert document.encode(PASSPHRASE) == file
    before = document.entries()
    if any(entry.key == NEW.key for entry in before):
        return
    assert NEW.certificate is not None
    added = document.with_trusted(NEW.alias, NEW.certificate, now_ms=0)
    reread = parse(added.encode(PASSPHRASE), PASSPHRASE)
    assert sorted(map(repr, reread.entries())) == sorted(map(repr, [*before, NEW]))
    removed = reread.without_trusted(NEW.alias)
    assert sorted(map(repr, parse(removed.encode(PASSPHRASE), PASSPHRASE).entries())) == sorted(
        map(repr, before)
    )
