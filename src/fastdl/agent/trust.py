# SPDX-License-Identifier: Apache-2.0
"""Would this host trust that origin, and because of what? A TLS handshake and nothing more.

The decision that counts is the engine's, on every connection; this one answers questions
before a download, and tells after a revocation which downloads have to be judged again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastdl.errors import NetError, PolicyError, TrustError
from fastdl.model.address import refused
from fastdl.model.url import Url
from fastdl.trust import certificate as certs

_VERIFY_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a pinned leaf is an anchor
SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Judgement:
    """``accepted_by``: an alias, or ``system``; the certificate is the origin's own."""

    accepted_by: str
    subject: str
    not_after: str


async def judge(
    url_text: str,
    anchors: Mapping[str, str],
    *,
    allowed_cidrs: Sequence[str] = (),
    seconds: float = 10.0,
) -> Judgement:
    """Who vouches for the https origin of *url_text*: alias → PEM in *anchors*, or the system.

    Raises TrustError when nobody does, PolicyError for an address that is not allowed,
    NetError when the origin cannot be reached.
    """
    url = Url.parse(url_text)
    if url.scheme != "https":
        raise PolicyError(f"{url.display()} is not https: there is no certificate to judge")
    try:
        async with asyncio.timeout(seconds):
            address = await _address(url.host, url.port, allowed_cidrs)
            return await _judge_at(address, url, anchors)
    except TimeoutError:
        raise NetError("the origin did not answer in time", origin=url.display()) from None
    except OSError as exc:
        raise NetError(f"the origin cannot be reached: {exc}", origin=url.display()) from exc


async def _judge_at(address: tuple[str, int], url: Url, anchors: Mapping[str, str]) -> Judgement:
    try:
        return await _handshake(address, url, SYSTEM, _context(()))
    except ssl.SSLCertVerificationError as exc:
        reason = exc.verify_message
    if anchors:
        try:
            found = await _handshake(address, url, "", _context(anchors.values()))
        except ssl.SSLCertVerificationError as exc:
            reason = exc.verify_message
        else:
            return await _attribute(address, url, anchors, found)
    raise TrustError(
        f"no certificate of the host's keystore, nor of the system, vouches for it: {reason}",
        origin=url.display(),
    )


async def _attribute(
    address: tuple[str, int], url: Url, anchors: Mapping[str, str], found: Judgement
) -> Judgement:
    """*found*, with the alias that suffices alone; the first one where only several do."""
    for alias, pem in anchors.items():
        with contextlib.suppress(ssl.SSLCertVerificationError):
            return await _handshake(address, url, alias, _context((pem,)))
    return Judgement(next(iter(anchors)), found.subject, found.not_after)


async def _handshake(
    address: tuple[str, int], url: Url, name: str, context: ssl.SSLContext
) -> Judgement:
    _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=url.host)
    try:
        tls = writer.get_extra_info("ssl_object")
        shown = certs.parse(tls.getpeercert(binary_form=True))
        return Judgement(name, shown.subject, shown.not_after.isoformat())
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def _address(host: str, port: int, allowed_cidrs: Sequence[str]) -> tuple[str, int]:
    """The first address of *host* that the policy allows; that very address is connected to."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    reason = None
    for *_, address in found:
        reason = refused(str(address[0]), "strict", allowed_cidrs)
        if reason is None:
            return str(address[0]), port
    raise PolicyError(reason or f"{host} has no address", phase="resolve")


def _context(anchors: Iterable[str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    text = "\n".join(anchors)
    if text:
        context.verify_flags |= ssl.VerifyFlags(_VERIFY_PARTIAL_CHAIN)
        context.load_verify_locations(cadata=text)
    return context
