# SPDX-License-Identifier: Apache-2.0
"""fuzz_signatures.py - invariant: what is no keyring is refused with a usage error, and a signature
that the keyring's keys did not make is refused with its own error class, whatever it looks like."""

from __future__ import annotations

import base64
import contextlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fastdl.errors import ChecksumListError, IntegrityError, UsageError
from fastdl.publishers import cms, minisign, sshsig
from fastdl.publishers.clearsigned import split_clearsigned
from fastdl.publishers.signatures import parse_keyring
from fastdl.publishers.signer import Content

_PUBLIC = Ed25519PrivateKey.generate().public_key()
_RAW = _PUBLIC.public_bytes(Encoding.Raw, PublicFormat.Raw)
_SSH = sshsig.read_keys(_PUBLIC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
_CONTENT = Content("list", b"0123  i.img\n")


def one_input(data: bytes) -> None:
    """Read *data* as a keyring, and as a signature of each kind that is parsed here."""
    with contextlib.suppress(UsageError):
        assert parse_keyring(data).suffixes
    # The key gets the id that the signature names, so that its value is looked at.
    lines = data.splitlines()
    try:
        named = base64.b64decode(lines[1])[2:10] if len(lines) > 1 else b""
    except ValueError:
        named = b""
    for verify, keys in ((minisign.verify, {named: _RAW}), (sshsig.verify, _SSH)):
        try:
            verify(_CONTENT, data, keys)
        except IntegrityError:
            continue
        raise AssertionError("a signature that nobody made is valid")
    assert cms.has_strong_digests(data) in (True, False)
    try:
        text, signature = split_clearsigned(data)
    except ChecksumListError:
        return
    assert signature.startswith(b"-----BEGIN PGP SIGNATURE-----")
    assert b"BEGIN PGP SIGNATURE-----" not in text.split(b"\r\n")
