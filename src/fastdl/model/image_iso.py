# SPDX-License-Identifier: Apache-2.0
"""Is an ISO image whole? ISO 9660 (ECMA-119), UDF (ECMA-167), or both on one disc."""

from __future__ import annotations

from fastdl.errors import FormatError
from fastdl.model.image import Format, ImageInfo, Reader, known_size

_SEQUENCE_AT = 32768
_DESCRIPTOR = 2048
_DESCRIPTORS = 16


def _bad(what: str) -> FormatError:
    return FormatError(what, phase="decode")


def inspect_iso(reader: Reader) -> ImageInfo:
    """Check the volume descriptors: a volume lies in its file, and contradicts itself nowhere."""
    size = known_size(reader)
    udf, primary = False, b""
    for i in range(_DESCRIPTORS):
        descriptor = reader.read_at(_SEQUENCE_AT + i * _DESCRIPTOR, _DESCRIPTOR)
        kind, name = descriptor[:1], descriptor[1:6]
        if name == b"CD001" and kind == b"\x01" and not primary:
            primary = descriptor
        udf = udf or name in (b"NSR02", b"NSR03")
        if name not in (b"CD001", b"BEA01", b"NSR02", b"NSR03", b"BOOT2", b"CDW02", b"TEA01"):
            break
    details: dict[str, bool | int] = {"hybrid": reader.read_at(510, 2) == b"\x55\xaa", "udf": udf}
    if primary:
        details["volume_size"] = _volume(primary, size)
    elif not udf:
        raise _bad("iso: no primary volume descriptor")
    return ImageInfo(format=Format.ISO, virtual_size=size, details=details)


def _volume(descriptor: bytes, size: int) -> int:
    """ECMA-119, 8.4: the primary volume descriptor says every number in both byte orders."""
    if len(descriptor) < _DESCRIPTOR or descriptor[6] != 1:
        raise _bad("iso: no primary volume descriptor")
    blocks = int.from_bytes(descriptor[80:84], "little")
    block = int.from_bytes(descriptor[128:130], "little")
    if blocks != int.from_bytes(descriptor[84:88], "big") or block != int.from_bytes(
        descriptor[130:132], "big"
    ):
        raise _bad("iso: the volume descriptor contradicts itself")
    if block not in (512, 1024, 2048):
        raise _bad("iso: impossible block size")
    if blocks * block > size:
        raise _bad("iso: the volume is larger than the file")
    return blocks * block
