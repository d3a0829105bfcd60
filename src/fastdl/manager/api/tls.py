# SPDX-License-Identifier: Apache-2.0
"""TLS of the API port: the operator's certificate, read again when its files change, or one of
the manager's own CA, renewed while it runs.

A handshake uses the context in force when it begins: a rotation disturbs no open connection, and
never mixes an old certificate with a new key.
"""

from __future__ import annotations

import array
import asyncio
import datetime as dt
import fcntl
import ipaddress
import logging
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fastdl import fs
from fastdl.errors import CertRejectedError, UsageError
from fastdl.manager.files import write_private
from fastdl.manager.hosts.ca import Authority
from fastdl.trust.certificate import reading

log = logging.getLogger(__name__)

CHECK_S: Final = 1.0
RENEW_S: Final = 24 * 3600.0
_SIOCGIFCONF: Final = 0x8912
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - to leave them out
_NAME: Final = re.compile(r"(\*\.)?([A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}")
_IFREQ: Final = 40
"""Bytes of one interface in the answer: 16 of its name, then a socket address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A certificate in force: how to serve it, and what clients may know of it."""

    context: ssl.SSLContext
    leaf: x509.Certificate
    cacert: str | None
    """PEM: what a client needs to trust it, where that is no public authority."""

    @property
    def not_after(self) -> float:
        """When it expires."""
        return self.leaf.not_valid_after_utc.timestamp()


class ApiTls:
    """The certificate of the API port. *cert* and *key* are files; without them *authority*
    signs one for *names*."""

    def __init__(
        self, *, cert: Path | None, key: Path | None, authority: Authority, names: list[str]
    ) -> None:
        """UsageError if the files cannot be used."""
        self._cert = cert
        self._key = key
        self._authority = authority
        self._names = names
        self._seen = self._stamp()
        self._renewed = time.monotonic()
        self.changed: Callable[[], None] = lambda: None
        """Called after another certificate was put in force."""
        self.chain = self._read()
        self.context = _fresh_context()

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self.chain.context

        self.context.sni_callback = choose

    @property
    def own(self) -> bool:
        """Whether the manager's own CA signs it."""
        return self._cert is None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what clients should know it by: the own CA, or the certificate."""
        known = self._authority.current.certificate if self.own else self.chain.leaf
        return known.fingerprint(hashes.SHA256()).hex(":").upper()

    def name_for(self, host: str) -> str:
        """Return *host* if the certificate names it, otherwise its first name."""
        try:
            found = self.chain.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, ValueError):
            return host
        names = found.value.get_values_for_type(x509.DNSName)
        names += [str(address) for address in found.value.get_values_for_type(x509.IPAddress)]
        exact = [name for name in names if not name.startswith("*")]
        return host if host in names or not exact else exact[0]

    async def run(self) -> None:
        """Follow changes of the files or of the CA, and renew the own certificate in time, until
        cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.refresh()

    def refresh(self) -> None:
        """Put a changed certificate in force; one that cannot be used changes nothing."""
        stamp = self._stamp()
        due = self.own and time.monotonic() - self._renewed > RENEW_S
        if stamp == self._seen and not due:
            return
        try:
            chain = self._read()
        except UsageError as exc:
            # Half of a pair may have been written: completing it is a change, too.
            log.error("a changed certificate is not used", extra={"why": str(exc)})
            self._seen = stamp
            return
        if stamp != self._stamp():
            return  # it changed while being read: checked again next time
        self.chain, self._seen, self._renewed = chain, stamp, time.monotonic()
        log.info(
            "the API port uses a new certificate",
            extra={"sha256": self.fingerprint, "until": chain.leaf.not_valid_after_utc},
        )
        self.changed()

    def _stamp(self) -> tuple[object, ...]:
        """What changes when the files (a link's target counts) or the CA do."""
        if self._cert is None:
            return (self._authority.pem,)
        stamps: list[object] = []
        for path in filter(None, (self._cert, self._key)):
            try:
                found = path.stat()
            except OSError as exc:
                stamps.append(exc.errno)
            else:
                stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        return tuple(stamps)

    def _read(self) -> Chain:
        if self._cert is None:
            key, leaf = self._authority.sign_api(self._names)
            path = self._authority.folder / "api.pem"
            write_private(path, key + leaf.public_bytes(Encoding.PEM))
            return Chain(context=_load(path, None), leaf=leaf, cacert=self._authority.pem)
        context = _load(self._cert, self._key)
        try:
            pem = self._cert.read_bytes()
            with reading():
                chain = x509.load_pem_x509_certificates(pem)
        except (OSError, CertRejectedError) as exc:
            raise UsageError(f"the certificate {self._cert} cannot be read: {fs.why(exc)}") from exc
        if chain[0].not_valid_after_utc < dt.datetime.now(dt.UTC):
            log.warning("the certificate of the API port has expired", extra={"file": self._cert})
        top = chain[-1]
        private = top.public_bytes(Encoding.PEM).decode() if top.issuer == top.subject else None
        return Chain(context=context, leaf=chain[0], cacert=private)


def _fresh_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _load(cert: Path, key: Path | None) -> ssl.SSLContext:
    def no_passphrase() -> NoReturn:
        raise UsageError(
            f"the key {key or cert} is protected by a passphrase: use a key without one"
        )

    context = _fresh_context()
    try:
        context.load_cert_chain(cert, key, password=no_passphrase)
    except ssl.SSLError as exc:
        raise UsageError(
            f"the certificate {cert} and the key {key or cert} cannot be used: they are not a "
            f"matching pair of PEM files ({exc.reason or exc})"
        ) from exc
    except OSError as exc:
        raise UsageError(
            f"the certificate {cert} or the key {key or cert} cannot be read: {exc.strerror}"
        ) from exc
    return context


def own_names(host: str, more: str) -> list[str]:
    """Return the names for the own certificate: this machine, its addresses, and the names in
    *more* (comma-separated). *host* is where the port listens."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname(), *_addresses(), host]
    names = [name for name in dict.fromkeys(names) if _is_name(name) and name not in _ANY]
    wanted = [name.strip() for name in more.split(",") if name.strip()]
    if wrong := [name for name in wanted if not _is_name(name)]:
        raise UsageError(f"--tls-names: {wrong[0]!r} is neither a name nor an address")
    return list(dict.fromkeys(names + wanted))


def _is_name(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None
    return True


def _addresses() -> list[str]:
    """Return this machine's addresses; others can be added with --tls-names."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        buffer = array.array("B", bytes(_IFREQ * 256))
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        size, _ = struct.unpack("iL", fcntl.ioctl(probe, _SIOCGIFCONF, request))
        raw = buffer.tobytes()
        found += [socket.inet_ntoa(raw[at + 20 : at + 24]) for at in range(0, size, _IFREQ)]
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:  # no IPv6, or hidden from services
        lines = []
    found += [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
        for words in map(str.split, lines)
        if words[3] == "00"  # global: link-local addresses cannot be used in URLs
    ]
    return found
