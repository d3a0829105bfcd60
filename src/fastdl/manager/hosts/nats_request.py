# SPDX-License-Identifier: Apache-2.0
"""Whom does a NATS server ask about, and what does it get? NATS' auth callout, without I/O.

A server signs its request with its own key, which managers do not know beforehand: the response is
good for that server and that one connection only, so nobody else gains anything by asking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.nats_claims import Issuer, Kind, key_bytes, verified
from fastdl.wire.nats import subjects

ACCOUNT: Final = "$G"
"""Managers and hosts are in the account that servers have without any configuration of them."""
_AUDIENCE: Final = "nats-authorization-request"
_VERSION: Final = 2
_ADDRESS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A connection that somebody wants. *user*: the key that the server made for it; *server*: the
    server's, and *curve* its key for encryption ("" = none).

    ``certificate``  the client's (PEM), for which TLS has proved the key; "" = none
    ``address``      where the connection comes from, as the server says
    """

    user: str
    server: str
    curve: str
    certificate: str
    address: str


def read(token: bytes, issuer: str) -> Request:
    """Return what a server asks of *issuer*. AgentRefusedError if it is no such request."""
    claims = verified(token, Kind.SERVER)
    if claims.get("aud") != _AUDIENCE:
        raise AgentRefusedError("a token for another purpose")
    if claims.get("sub") != issuer:
        raise AgentRefusedError(
            "the server's configuration was written with another secret.key: write it again"
        )
    asked = _dict(claims.get("nats"))
    server = _dict(asked.get("server_id"))
    user, curve = asked.get("user_nkey"), server.get("xkey", "")
    key_bytes(Kind.USER, user)
    if server.get("id") != claims["iss"]:
        raise AgentRefusedError("a server asks for another one")
    if curve != "":
        key_bytes(Kind.CURVE, curve)
    address = _dict(asked.get("client_info")).get("host")
    return Request(
        user=str(user),
        server=str(claims["iss"]),
        curve=str(curve),
        certificate=_certificate(asked.get("client_tls")),
        address=address[:_ADDRESS_MAX] if isinstance(address, str) else "",
    )


def granted(request: Request, issuer: Issuer, host: str, *, now: float, until: float) -> str:
    """Return the response that the connection is *host*'s, until then: with the same permissions
    as a list of users in the servers' configuration gives it."""
    allowed = subjects.permissions(host)
    user = {
        "sub": request.user,
        "aud": ACCOUNT,
        "name": host,
        "iat": int(now),
        "exp": int(until),
        "nats": {
            "pub": {"allow": allowed.publish},
            "sub": {"allow": allowed.subscribe},
            **dict.fromkeys(("subs", "data", "payload"), -1),  # no limits
            "type": "user",
            "version": _VERSION,
        },
    }
    return _response(request, issuer, now, {"jwt": issuer.sign(user)})


def refused(request: Request, issuer: Issuer, reason: str, *, now: float) -> str:
    """Return the response that the connection is nobody's. *reason*: for the server's log."""
    return _response(request, issuer, now, {"error": reason})


def _response(request: Request, issuer: Issuer, now: float, content: dict[str, str]) -> str:
    return issuer.sign(
        {
            "sub": request.user,
            "aud": request.server,
            "iat": int(now),
            "nats": {**content, "type": "authorization_response", "version": _VERSION},
        }
    )


def _certificate(tls: object) -> str:
    """The client's own certificate of a chain that the server has verified."""
    chains = _dict(tls if tls is not None else {}).get("verified_chains")
    match chains:
        case [[str(leaf), *_], *_]:
            return leaf
        case _:
            return ""


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AgentRefusedError("a request of another form")
    return value
