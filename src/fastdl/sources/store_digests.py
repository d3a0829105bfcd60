# SPDX-License-Identifier: Apache-2.0
"""What do object stores say of an object's bytes in a response's fields?

Only digests of the whole object count, and only those that we compute: no CRCs, no entity tags.
They are the word of the server that sends the bytes.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable

from fastdl.errors import FastdlError
from fastdl.model.digest import HEX_LENGTHS, Digest


def store_digests(headers: Iterable[tuple[str, str]], *, whole: bool) -> tuple[Digest, ...]:
    """The digests of the object that *headers* (lower-case names) give, one of an algorithm.

    *whole*: the response has the whole object; a field that may be about the part that was sent
    does not count otherwise. What contradicts itself or cannot be read is left out.
    """
    fields = list(headers)
    names = {name: value.strip().lower() for name, value in fields}
    # What is stored packed and sent unpacked has the digest of the former.
    if names.get("x-goog-stored-content-encoding", "identity") != "identity":
        fields = [field for field in fields if field[0] != "x-goog-hash"]
    composite = names.get("x-amz-checksum-type") == "composite"
    found: dict[str, Digest] = {}
    odd: set[str] = set()
    for name, value in fields:
        for algorithm, text in _said(name, value, whole=whole, composite=composite):
            digest = _from_base64(algorithm, text)
            if digest is None or found.setdefault(algorithm, digest) != digest:
                odd.add(algorithm)
    return tuple(digest for algorithm, digest in found.items() if algorithm not in odd)


def _said(name: str, value: str, *, whole: bool, composite: bool) -> list[tuple[str, str]]:
    """(algorithm, base64) of one field."""
    if name == "x-goog-hash":
        members = [member.strip().partition("=") for member in value[:4096].split(",")]
        return [("md5", text) for key, _, text in members if key.lower() == "md5"]
    if name == "x-ms-blob-content-md5":
        return [("md5", value)]
    if not whole:
        return []
    if name == "content-md5":
        return [("md5", value)]
    if name in ("x-amz-checksum-sha256", "x-amz-checksum-sha1") and not composite:
        # base64 has no dash: "…-3" is a sum of three parts' sums
        return [] if "-" in value else [("sha-" + name.rpartition("sha")[2], value)]
    return []


def _from_base64(algorithm: str, text: str) -> Digest | None:
    try:
        value = binascii.a2b_base64(text.strip()[:200], strict_mode=True)
        if len(value) * 2 != HEX_LENGTHS[algorithm]:
            return None
        return Digest.from_bytes(algorithm, value)
    except (ValueError, FastdlError):
        return None
