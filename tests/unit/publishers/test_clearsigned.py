# SPDX-License-Identifier: Apache-2.0
"""Is only that read of a clear-signed list which its signature is about?"""

from __future__ import annotations

import pytest

from fastdl.errors import ChecksumListError
from fastdl.publishers.clearsigned import is_clearsigned, signed_text

SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n\niHUE\n=abcd\n-----END PGP SIGNATURE-----\n"
DOCUMENT = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# a\n- -b\nc\n" + SIGNATURE


def test_the_signed_part_is_read_undashed() -> None:
    """RFC 9580, 7.1."""
    assert is_clearsigned(DOCUMENT)
    assert signed_text(DOCUMENT) == b"# a\n-b\nc\n"
    assert signed_text(DOCUMENT.replace(b"\n", b"\r\n")) == b"# a\n-b\nc\n"
    assert not is_clearsigned(b"x -----BEGIN PGP SIGNED MESSAGE-----\n")


@pytest.mark.parametrize(
    "data",
    [
        b"evil\n" + DOCUMENT,
        DOCUMENT + b"evil\n",
        DOCUMENT + DOCUMENT,
        DOCUMENT.replace(b"Hash: SHA256\n\n", b"evil\n\n"),
        DOCUMENT.replace(b"Hash: SHA256\n\n# a", b"Hash: SHA256"),
        DOCUMENT.replace(SIGNATURE, b""),
        SIGNATURE + DOCUMENT,
        DOCUMENT.replace(b"-----END PGP SIGNATURE-----\n", b""),
    ],
)
def test_anything_beside_it_is_refused(data: bytes) -> None:
    """What nobody signed must not look as if somebody had."""
    with pytest.raises(ChecksumListError):
        signed_text(data)
