# SPDX-License-Identifier: Apache-2.0
"""fuzz_checksum_list.py - invariant: a list is refused with its own error class, or every
digest taken from it is in the list; for a clear-signed list, in the signed part."""

from __future__ import annotations

from fastdl.errors import ChecksumListError, IntegrityError, LimitError
from fastdl.publishers.checksum_list import digest_of, read_list
from fastdl.publishers.clearsigned import SIGNATURE, is_clearsigned, signed_text
from fastdl.publishers.openpgp import signer_of

NAMES = ("i.img", "a", "CHECKSUM")


def one_input(data: bytes) -> None:
    """Read *data* as lists of several names, as a clear-signed one, and as gpgv's status."""
    text = data
    if is_clearsigned(data):
        try:
            text = signed_text(data)
        except ChecksumListError:
            return
        assert SIGNATURE not in text.splitlines()
    lowered = text.lower()
    for called in ("", "SHA256SUMS", "i.img.sha512", "B2SUMS"):
        try:
            entries = read_list(text, called=called)
        except (ChecksumListError, LimitError):
            continue
        assert all(entry.digest.hex.encode() in lowered for entry in entries)
        for name in NAMES:
            try:
                digest = digest_of(entries, name, path=f"d/{name}")
            except ChecksumListError:
                continue
            assert digest.hex.encode() in lowered
            assert any(e.name is None or e.name.endswith(name) for e in entries)
    try:
        found = signer_of(data.decode("utf-8", "replace"), "list")
    except IntegrityError:
        return
    assert b"GOODSIG" in data
    assert b"VALIDSIG" in data
    assert found.uid
