# SPDX-License-Identifier: Apache-2.0
"""Where NATS is: what ``--fabric`` and its options say, checked, and nothing secret shown."""

from __future__ import annotations

import importlib.util
import re
import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from fastdl.errors import UsageError

PORT: Final = 4222
SERVERS_MAX: Final = 16
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
SYNTAX: Final = (
    "--fabric is local, or where NATS is: nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…], or "
    "tls://… for TLS"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers of one NATS cluster, and how to log in. *addresses*: HOST:PORT each."""

    addresses: tuple[str, ...]
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None = without TLS, unless the server insists."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    """None = *user*, if any, is a token."""

    def __str__(self) -> str:
        return ("tls://" if self.tls else "nats://") + ",".join(self.addresses)


def servers_of(
    url: str, *, ca: str | None = None, cert: str | None = None, key: str | None = None
) -> Servers:
    """Return what *url* and the files (PEM; None = the system's CAs, no client certificate) say.

    UsageError if that cannot be used; it never repeats the URL, which may hold a password.
    """
    scheme, _, rest = url.partition("://")
    account, at, hosts = rest.rpartition("@")
    if scheme not in {"nats", "tls"} or not hosts or any(c in hosts for c in "/?#"):
        raise UsageError(SYNTAX)
    if importlib.util.find_spec("nats") is None:
        raise UsageError(
            "--fabric nats://… needs the Python package nats-py: "
            "pip install '.[scale]' in fastdl's source folder"
        )
    addresses = tuple(_address(text) for text in hosts.split(","))
    if len(addresses) > SERVERS_MAX:
        raise UsageError(f"--fabric: at most {SERVERS_MAX} servers")
    user, colon, password = account.partition(":")
    if at and not user:
        raise UsageError(SYNTAX)
    if key and not cert:
        raise UsageError("--fabric-key needs --fabric-cert: the certificate it belongs to")
    return Servers(
        addresses=addresses,
        tls=_context(ca, cert, key) if scheme == "tls" or ca or cert else None,
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[2] or PORT) < 1 << 16:
        raise UsageError(SYNTAX)
    return f"{found[1]}:{found[2] or PORT}"


def _context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise UsageError(f"--fabric-ca {ca}: {exc.strerror or 'no certificates in PEM'}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        except (OSError, ValueError) as exc:
            raise UsageError(
                f"--fabric-cert {cert}: cannot be used with its key "
                "(both in PEM, the key without a passphrase)"
            ) from exc
    return context


def _no_passphrase() -> str:
    """OpenSSL asks the terminal otherwise."""
    raise ValueError
