# SPDX-License-Identifier: Apache-2.0
"""A TLS handshake only: does the origin present a certificate that an anchor verifies?

It reads hostile bytes, so it runs in a confined process. Called through ``trust``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from fastdl.errors import NetError, PolicyError, TrustError
from fastdl.model.address import refused
from fastdl.model.url import Url
from fastdl.trust import certificate as certs

_VERIFY_PARTIAL_CHAIN = 0x80000  # X509_V_FLAG_PARTIAL_CHAIN: a pinned leaf is an anchor


def vouch(
    url: Url, anchors: Sequence[str], *, allowed_cidrs: Sequence[str], seconds: float
) -> dict[str, Any]:
    """Which anchor verifies the origin, and what its certificate says.

    ``by`` (an index into the PEM texts *anchors*, None for the system), ``subject``,
    ``not_after``. Raises TrustError when none does, PolicyError for an address that
    is not allowed, NetError when the origin cannot be reached within *seconds*.
    """
    try:
        address = _address(url.host, url.port, allowed_cidrs)
        return _vouch_at(address, url, anchors, seconds)
    except TimeoutError:
        raise NetError("the origin did not respond in time", origin=url.display()) from None
    except OSError as exc:
        raise NetError(f"the origin cannot be reached: {exc}", origin=url.display()) from exc


def _vouch_at(
    address: tuple[str, int], url: Url, anchors: Sequence[str], seconds: float
) -> dict[str, Any]:
    try:
        return {"by": None, **_shown(address, url, (), seconds)}
    except ssl.SSLCertVerificationError as exc:
        reason = exc.verify_message
    if anchors:
        try:
            found = _shown(address, url, anchors, seconds)
        except ssl.SSLCertVerificationError as exc:
            reason = exc.verify_message
        else:
            return {"by": _which(address, url, anchors, seconds), **found}
    raise TrustError(
        f"no certificate in the host's keystore or the system's store verifies it: {reason}",
        origin=url.display(),
    )


def _which(address: tuple[str, int], url: Url, anchors: Sequence[str], seconds: float) -> int:
    """The anchor that suffices alone; the first one if several are needed."""
    for index, pem in enumerate(anchors):
        with contextlib.suppress(ssl.SSLCertVerificationError):
            _shown(address, url, (pem,), seconds)
            return index
    return 0


def _shown(
    address: tuple[str, int], url: Url, anchors: Iterable[str], seconds: float
) -> dict[str, str]:
    """The content of the origin's verified certificate."""
    context = _context(anchors)
    with (
        socket.create_connection(address, timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname=url.host) as tls,
    ):
        shown = certs.parse(tls.getpeercert(binary_form=True) or b"")
        return {"subject": shown.subject, "not_after": shown.not_after.isoformat()}


def _address(host: str, port: int, allowed_cidrs: Sequence[str]) -> tuple[str, int]:
    """The first address of *host* that the policy allows; exactly that address is connected to."""
    reason = None
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
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
