# SPDX-License-Identifier: Apache-2.0
"""fuzz_nats_request.py - invariant: a NATS server's request to admit somebody is refused, or
it has keys of the right kinds only and keeps its bounds; one that no server signed is refused."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.nats_claims import Issuer, Kind, key_bytes
from fastdl.manager.hosts.nats_request import Request, read

_ISSUER = Issuer(b"i" * 32).public
_SERVER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _read(token: bytes) -> Request | None:
    try:
        return read(token, _ISSUER)
    except AgentRefusedError:
        return None


def one_input(data: bytes) -> None:
    """Read *data* as a token, and as the claims that a server has signed."""
    assert _read(data) is None
    body = _encoded(b'{"typ":"JWT","alg":"ed25519-nkey"}') + b"." + _encoded(data)
    found = _read(body + b"." + _encoded(_SERVER.sign(body)))
    if found is None:
        return
    assert len(key_bytes(Kind.USER, found.user)) == len(key_bytes(Kind.SERVER, found.server))
    assert not found.curve or key_bytes(Kind.CURVE, found.curve)
    assert len(found.address) <= 64
