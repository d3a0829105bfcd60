# SPDX-License-Identifier: Apache-2.0
"""fuzz_ber.py - invariant: accepted BER becomes DER that the strict reader parses down to its
leaves, with the same values in the same order; DER, and the DER made here, stays unchanged.
"""

from __future__ import annotations

from fastdl.model import der
from fastdl.model.der import OCTET_STRING, DerError

IN_PIECES = OCTET_STRING | 0x20


def one_input(data: bytes) -> None:
    """Make *data* definite, and read both."""
    strict = _leaves(data)
    try:
        made = der.definite(data)
    except DerError:
        assert strict is None
        return
    if strict is not None:
        assert made == data
    assert _leaves(made) == _values(data, 0)[0]
    assert der.definite(made) == made


def _leaves(data: bytes) -> list[bytes] | None:
    """The values of the primitive elements; None for what is not DER, or nested too deeply."""
    found = []
    try:
        waiting = [(der.read_one(data), 0)]
        while waiting:
            element, depth = waiting.pop()
            if element.tag == IN_PIECES or depth > 32:
                return None
            if element.tag & 0x20:
                waiting.extend((child, depth + 1) for child in reversed(element.children()))
            else:
                found.append(element.content)
    except DerError:
        return None
    return found


def _values(data: bytes, at: int) -> tuple[list[bytes], int]:
    """The values of the element at *at* of BER that is known to be well-formed, and its end."""
    tag, first = data[at], data[at + 1]
    at += 2
    size = first
    if first > 0x80:
        at += first & 0x7F
        size = int.from_bytes(data[at - (first & 0x7F) : at], "big")
    if not tag & 0x20:
        return [data[at : at + size]], at + size
    found: list[bytes] = []
    end = at + size
    while data[at : at + 2] != b"\0\0" if first == 0x80 else at < end:
        values, at = _values(data, at)
        found += values
    if tag == IN_PIECES:
        found = [b"".join(found)]
    return found, at + 2 if first == 0x80 else at
