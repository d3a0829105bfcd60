# SPDX-License-Identifier: Apache-2.0
"""Where NATS is: what an option says, checked, and nothing secret shown."""

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
NATS_NAME: Final = "nats.fastdl.internal"
"""The name in the certificates that the manager's CA issues to NATS servers."""
PAYLOAD_MAX: Final = 9 << 20
"""Bytes that a message may have at servers for hosts: the largest document, sealed, fits."""
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_SYNTAX: Final = (
    "where NATS is: nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…], or tls://… for TLS"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers of one NATS cluster, and how to log in. *addresses*: HOST:PORT each."""

    addresses: tuple[str, ...]
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    """None = without TLS, unless the server insists."""
    tls_name: str | None = None
    """The name in the servers' certificates; None = that of the address."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    """None = *user*, if any, is a token."""

    def __str__(self) -> str:
        return ("tls://" if self.tls or self.tls_name else "nats://") + ",".join(self.addresses)


def servers_of(
    url: str,
    *,
    option: str = "--fabric",
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
) -> Servers:
    """Return what *url* and the files (PEM; None = the system's CAs, no client certificate) say.

    UsageError, about *option*, if that cannot be used; it never repeats the URL, which may hold a
    password.
    """
    found = parse_servers(url, option=option)
    if key and not cert:
        raise UsageError(f"{option}-key needs {option}-cert: the certificate it belongs to")
    tls = _context(option, ca, cert, key) if url.startswith("tls:") or ca or cert else None
    return Servers(addresses=found.addresses, tls=tls, user=found.user, password=found.password)


def parse_servers(url: str, *, option: str) -> Servers:
    """As ``servers_of``, but TLS, which a URL that starts with ``tls:`` needs, is up to the
    caller."""
    syntax = UsageError(f"{option} is {'local, or ' * (option == '--fabric')}{_SYNTAX}")
    scheme, _, rest = url.partition("://")
    account, at, hosts = rest.rpartition("@")
    if scheme not in {"nats", "tls"} or not hosts or any(c in hosts for c in "/?#"):
        raise syntax
    if importlib.util.find_spec("nats") is None:
        raise UsageError(
            f"{option} nats://… needs the Python package nats-py: "
            "pip install '.[scale]' in fastdl's source folder"
        )
    addresses = []
    for text in hosts.split(","):
        found = _ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found[2] or PORT) < 1 << 16:
            raise syntax
        addresses.append(f"{found[1]}:{found[2] or PORT}")
    if len(addresses) > SERVERS_MAX:
        raise UsageError(f"{option}: at most {SERVERS_MAX} servers")
    user, colon, password = account.partition(":")
    if at and not user:
        raise syntax
    return Servers(
        addresses=tuple(addresses),
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def _context(option: str, ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise UsageError(f"{option}-ca {ca}: {exc.strerror or 'no certificates in PEM'}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        except (OSError, ValueError) as exc:
            raise UsageError(
                f"{option}-cert {cert}: cannot be used with its key "
                "(both in PEM, the key without a passphrase)"
            ) from exc
    return context


def _no_passphrase() -> str:
    """OpenSSL asks the terminal otherwise."""
    raise ValueError
