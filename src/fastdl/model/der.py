# SPDX-License-Identifier: Apache-2.0
"""What do these DER bytes say, and how are DER bytes made? (X.690)

BER, as older browsers and Bouncy Castle write it, is made definite first. Only what PKCS#12
and CMS need, and nothing lenient: one-byte tags, definite lengths in their shortest form, no
trailing bytes, bounded nesting. Every element keeps its own bytes, so that an editor can pass on
untouched what it does not understand.
"""

from __future__ import annotations

from dataclasses import dataclass

INTEGER = 0x02
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_ID = 0x06
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

_MAX_CHILDREN = 65_536
_MAX_INT_OCTETS = 20
_MAX_DEPTH = 32


class DerError(ValueError):
    """The bytes are not the DER that was expected."""


@dataclass(frozen=True, slots=True)
class Element:
    """One tag-length-value: ``raw`` is all of it, ``content`` the value alone."""

    tag: int
    raw: bytes
    content: bytes

    def expect(self, tag: int) -> Element:
        """This element, which must carry *tag*; DerError otherwise."""
        if self.tag != tag:
            raise DerError(f"tag 0x{self.tag:02x} where 0x{tag:02x} belongs")
        return self

    def children(self) -> list[Element]:
        """The elements inside a constructed one, which they must fill exactly."""
        if not self.tag & 0x20:
            raise DerError(f"tag 0x{self.tag:02x} is not constructed")
        return read_all(self.content)

    def only_child(self) -> Element:
        """The single element inside an explicit tag or a one-value set."""
        inside = self.children()
        if len(inside) != 1:
            raise DerError(f"{len(inside)} elements where one belongs")
        return inside[0]

    def integer(self) -> int:
        """The value of an INTEGER that is not negative and not larger than 160 bits."""
        body = self.expect(INTEGER).content
        if not body or len(body) > _MAX_INT_OCTETS or body[0] & 0x80:
            raise DerError("integer empty, negative or too large")
        if len(body) > 1 and body[0] == 0 and not body[1] & 0x80:
            raise DerError("integer not in its shortest form")
        return int.from_bytes(body, "big")

    def oid(self) -> str:
        """The dotted form of an OBJECT IDENTIFIER."""
        return _dotted(self.expect(OBJECT_ID).content)


def read_one(data: bytes) -> Element:
    """The one element that *data* consists of; DerError for anything before, after or short."""
    element, end = _read_at(data, 0)
    if end != len(data):
        raise DerError(f"{len(data) - end} bytes after the end")
    return element


def read_all(data: bytes) -> list[Element]:
    """The elements that *data* consists of, in order."""
    found: list[Element] = []
    at = 0
    while at < len(data):
        if len(found) == _MAX_CHILDREN:
            raise DerError("too many elements")
        element, at = _read_at(data, at)
        found.append(element)
    return found


def _read_at(data: bytes, start: int) -> tuple[Element, int]:
    if start + 2 > len(data):
        raise DerError("truncated")
    tag, first = data[start], data[start + 1]
    if tag & 0x1F == 0x1F:
        raise DerError("multi-byte tag")
    at = start + 2
    length = first
    if first & 0x80:
        width = first & 0x7F
        if width == 0:
            raise DerError("indefinite length (BER, not DER)")
        if width > 4 or at + width > len(data):
            raise DerError("truncated or absurd length")
        length = int.from_bytes(data[at : at + width], "big")
        if length < 0x80 or length >> (8 * (width - 1)) == 0:
            raise DerError("length not in its shortest form")
        at += width
    end = at + length
    if end > len(data):
        raise DerError("truncated")
    return Element(tag, data[start:end], data[at:end]), end


def definite(data: bytes) -> bytes:
    """The one BER element *data* as DER: definite lengths, strings in one piece. DerError."""
    out, end = _definite_at(data, 0, len(data), 0)
    if end != len(data):
        raise DerError(f"{len(data) - end} bytes after the end")
    return out


def _definite_at(data: bytes, start: int, stop: int, depth: int) -> tuple[bytes, int]:
    if depth > _MAX_DEPTH:
        raise DerError("nested too deeply")
    if start + 2 > stop or data[start] & 0x1F == 0x1F:
        raise DerError("truncated, or a multi-byte tag")
    tag, first, at = data[start], data[start + 1], start + 2
    width = first & 0x7F if first & 0x80 else 0
    if width > 4 or at + width > stop:
        raise DerError("truncated or absurd length")
    endless = first == 0x80
    length = int.from_bytes(data[at : at + width], "big") if width else first & 0x7F
    at += width
    end = stop if endless else at + length
    if end > stop or (endless and not tag & 0x20):
        raise DerError("truncated, or a value without an end")
    if not tag & 0x20:
        return encode(tag, data[at:end]), end
    parts: list[bytes] = []
    while at < end and not (endless and data[at : min(at + 2, end)] == b"\0\0"):
        if len(parts) == _MAX_CHILDREN:
            raise DerError("too many elements")
        part, at = _definite_at(data, at, end, depth + 1)
        parts.append(part)
    if endless:
        if data[at : min(at + 2, end)] != b"\0\0":
            raise DerError("a value without an end")
        end = at + 2
    if tag == OCTET_STRING | 0x20:
        whole = b"".join(read_one(part).expect(OCTET_STRING).content for part in parts)
        return encode(OCTET_STRING, whole), end
    return encode(tag, b"".join(parts)), end


def encode(tag: int, content: bytes) -> bytes:
    """One element from its tag and value."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded *parts*."""
    return encode(SEQUENCE, b"".join(parts))


def set_of(*parts: bytes) -> bytes:
    """A SET OF encoded *parts*, in DER's order (X.690 11.6)."""
    return encode(SET, b"".join(sorted(parts)))


def explicit(number: int, part: bytes) -> bytes:
    """*part* under the context tag [number]."""
    return encode(0xA0 | number, part)


def octets(content: bytes) -> bytes:
    """An OCTET STRING."""
    return encode(OCTET_STRING, content)


def integer(value: int) -> bytes:
    """An INTEGER that is not negative."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def bmp_string(text: str) -> bytes:
    """A BMPString (UTF-16, big-endian)."""
    return encode(BMP_STRING, text.encode("utf-16-be"))


def null() -> bytes:
    """A NULL."""
    return encode(NULL, b"")


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER from its dotted form."""
    arcs = [int(arc) for arc in dotted.split(".")]
    body = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        body += bytes(reversed(septets))
    return encode(OBJECT_ID, bytes(body))


def _dotted(body: bytes) -> str:
    if not body or len(body) > 64 or body[-1] & 0x80:
        raise DerError("malformed object identifier")
    arcs: list[int] = []
    value = 0
    for octet in body:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (top, arcs[0] - 40 * top, *arcs[1:]))
