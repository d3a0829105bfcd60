# SPDX-License-Identifier: Apache-2.0
"""The one-time enrolment token: what it carries and how it is written.

``fdl1.ID.SECRET.FINGERPRINT``: the manager finds the token by ID, compares the hash of SECRET
(it never stores the secret), and the agent trusts only a CA with that SHA-256 FINGERPRINT. With
``fdl1h`` it was made for one host, which gets a new key by it: an agent uses it although the
identity that it has is good.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from fastdl.errors import UsageError

_FORM: Final = re.compile(r"fdl1(h?)\.([0-9a-f]{32})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class EnrolToken:
    """*ca_sha256*: SHA-256 of the DER of the manager's CA certificate, lower-case hex. *for_host*:
    made for one host, to give it a new key."""

    id: str
    secret: str = field(repr=False)
    ca_sha256: str
    for_host: bool = False

    def __str__(self) -> str:
        return f"fdl1{'h' if self.for_host else ''}.{self.id}.{self.secret}.{self.ca_sha256}"


def new_token(ca_sha256: str, *, for_host: bool = False) -> EnrolToken:
    """Return a fresh token for the CA with this fingerprint."""
    return EnrolToken(secrets.token_hex(16), secrets.token_urlsafe(32), ca_sha256, for_host)


def parse_token(text: str) -> EnrolToken:
    """Return the token in *text*; UsageError (without repeating it) when it is malformed."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            "the enrolment token is malformed: paste it whole, as createHostToken printed it"
        )
    kind, id_, secret, ca_sha256 = match.groups()
    return EnrolToken(id_, secret, ca_sha256, bool(kind))
