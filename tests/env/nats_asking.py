# SPDX-License-Identifier: Apache-2.0
"""What a NATS server asks of managers, and reads of their response: written from NATS' documents,
not with the manager's own code."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

pytest.importorskip("nacl", reason="PyNaCl is not installed")
from nacl.public import Box, PrivateKey, PublicKey

ACCOUNT, SERVER, USER, CURVE = 0x00, 0x68, 0xA0, 0xB8
"""The kinds of keys, in their upper five bits: A, N, U, X."""


def spelled(kind: int, raw: bytes) -> str:
    """A public key as NATS writes it."""
    data = bytes([kind]) + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode()


def raw(text: str) -> bytes:
    """The key that is written as *text*."""
    return base64.b32decode(text)[1:-2]


def encoded(data: bytes) -> str:
    """Base64 as tokens have it."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """What ``encoded`` was given."""
    return base64.urlsafe_b64decode(text + "==")


class AskingServer:
    """A server, with its keys. *number*: another server."""

    def __init__(self, number: int = 1) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self._curve = PrivateKey(bytes([number]) * 32)
        self.id = spelled(SERVER, self._key.public_key().public_bytes_raw())
        self.curve = spelled(CURVE, bytes(self._curve.public_key))
        self.user = spelled(USER, bytes([number]) * 32)

    def claims(self, issuer: str, certificate: str = "", *, xkey: bool = False) -> dict[str, Any]:
        """What it asks about a client with *certificate*; *xkey*: it encrypts."""
        tls = {"version": "1.3", "verified_chains": [[certificate, "its CA"]]}
        return {
            "aud": "nats-authorization-request",
            "exp": 4102444800,
            "iss": self.id,
            "sub": issuer,
            "nats": {
                "server_id": {
                    "name": "n1",
                    "id": self.id,
                    **({"xkey": self.curve} if xkey else {}),
                },
                "user_nkey": self.user,
                "client_info": {"host": "192.0.2.1", "id": 7, "kind": "Client"},
                "connect_opts": {"user": "somebody else", "protocol": 1},
                "client_tls": tls if certificate else None,
                "type": "authorization_request",
                "version": 2,
            },
        }

    def signed(self, claims: object, header: object = None) -> bytes:
        """*claims* as a token."""
        header = {"typ": "JWT", "alg": "ed25519-nkey"} if header is None else header
        body = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
        return f"{body}.{encoded(self._key.sign(body.encode()))}".encode()

    def sealed(self, data: bytes, curve: str) -> bytes:
        """*data* for the managers."""
        return b"xkv1" + Box(self._curve, PublicKey(raw(curve))).encrypt(data)

    def opened(self, data: bytes, curve: str) -> bytes:
        """What the managers sealed."""
        assert data.startswith(b"xkv1")
        return Box(self._curve, PublicKey(raw(curve))).decrypt(data[4:])

    def response(self, data: bytes, issuer: str) -> dict[str, Any]:
        """What a response says, if this server would take it."""
        claims = checked(data.decode(), issuer)
        assert (claims["sub"], claims["aud"]) == (self.user, self.id)
        assert claims["nats"]["type"] == "authorization_response"
        found: dict[str, Any] = claims["nats"]
        return found


def checked(token: str, issuer: str) -> dict[str, Any]:
    """The claims in *token*, which *issuer* has signed."""
    header, claims, signature = token.split(".")
    assert json.loads(decoded(header)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    found: dict[str, Any] = json.loads(decoded(claims))
    assert found["iss"] == issuer
    key = Ed25519PublicKey.from_public_bytes(raw(issuer))
    key.verify(decoded(signature), f"{header}.{claims}".encode())
    return found
