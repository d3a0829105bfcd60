# SPDX-License-Identifier: Apache-2.0
"""Which part of a clear-signed document is signed? (RFC 9580, 7)"""

from __future__ import annotations

from fastdl.errors import ChecksumListError

BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
END = b"-----END PGP SIGNATURE-----"


def is_clearsigned(data: bytes) -> bool:
    """Whether *data* contains the start of a clear-signed message anywhere."""
    return any(line.rstrip() == BEGIN for line in data.splitlines())


def signed_text(data: bytes) -> bytes:
    """The text covered by the one signature in *data*; the signature itself is not checked.

    ChecksumListError if there is any other text: unsigned text must not be read.
    """
    body, _ = _parts(data)
    return b"\n".join(body) + b"\n"


def split_clearsigned(data: bytes) -> tuple[bytes, bytes]:
    """The bytes that were signed, as the signature covers them, and the armored signature.

    Lines end with CR and LF, the last with neither, and none with white space (RFC 9580, 7.1).
    Errors as ``signed_text``.
    """
    body, signature = _parts(data)
    return b"\r\n".join(line.rstrip(b" \t\r") for line in body), b"\n".join(signature) + b"\n"


def _parts(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """The lines of the signed text, without the dashes' escapes, and those of the signature."""
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    starts = [n for n, line in enumerate(lines) if line.rstrip() == BEGIN]
    signatures = [n for n, line in enumerate(lines) if line.rstrip() == SIGNATURE]
    ends = [n for n, line in enumerate(lines) if line.rstrip() == END]
    if not (len(starts) == len(signatures) == len(ends) == 1):
        raise ChecksumListError("a clear-signed list has one signed part and one signature")
    start, signature, end = starts[0], signatures[0], ends[0]
    if not start < signature < end:
        raise ChecksumListError("the parts of a clear-signed list are out of order")
    if any(line.strip() for line in (*lines[:start], *lines[end + 1 :])):
        raise ChecksumListError("a clear-signed list has text that is not signed")
    body = start + 1
    while body < signature and lines[body].strip():  # the armor's fields: Hash: SHA256
        if b":" not in lines[body]:
            raise ChecksumListError("a clear-signed list has no empty line before its text")
        body += 1
    if body == signature:
        raise ChecksumListError("a clear-signed list has no empty line before its text")
    return [_undashed(line) for line in lines[body + 1 : signature]], lines[signature : end + 1]


def _undashed(line: bytes) -> bytes:
    return line[2:] if line.startswith(b"- ") else line
