# SPDX-License-Identifier: Apache-2.0
"""Trust, identity, proxies, time limits and address policy, as the core takes them."""

from __future__ import annotations

from fastdl import fs
from fastdl.core.net import Net
from fastdl.engine.options import Cookie, FetchOptions
from fastdl.errors import TrustError

MAX_PEM = 4 << 20


def make_net(options: FetchOptions) -> Net:
    """What all connections of a job share. TrustError if one of its files cannot be used."""
    anchors = list(options.anchors)
    if options.cacert is not None:
        data = _read(options.cacert, "the certificates in")
        anchors.append(data.decode("utf-8", "replace"))
    return Net(
        connect_timeout=options.connect_timeout,
        stall_timeout=options.stall_timeout,
        follow_redirects=options.follow_redirects,
        strict=options.policy == "strict",
        allowed_cidrs=options.allowed_cidrs,
        nfs_servers=options.nfs_servers,
        anchors=anchors,
        identity=_identity(options),
        proxies=options.proxy,
        interface=options.interface,
        family=options.ip_version or 0,
        pins=options.resolve,
        cookies=[(c.host, c.path, c.secure, _set_cookie(c)) for c in options.cookies],
    )


def _set_cookie(cookie: Cookie) -> str:
    """The field by which a server would have set it."""
    domain = f"; Domain={cookie.host}" if cookie.domain else ""
    secure = "; Secure" if cookie.secure else ""
    return f"{cookie.name}={cookie.value}; Path={cookie.path}{domain}{secure}"


def _identity(options: FetchOptions) -> tuple[bytes, bytes, bytes | None] | None:
    """The client's certificate, key and passphrase; fastdl never prompts for the last."""
    if options.cert is None:
        return None
    cert = _read(options.cert, "the client certificate")
    key = cert if options.key is None else _read(options.key, "the client's key")
    if options.key_pass_file is None:
        return cert, key, None
    line = _read(options.key_pass_file, "the passphrase file").partition(b"\n")[0]
    return cert, key, line.removesuffix(b"\r")


def _read(path: str, what: str) -> bytes:
    try:
        return fs.read_at_most(path, MAX_PEM)
    except OSError as exc:
        raise TrustError(f"{what} {path} cannot be read: {exc.strerror}") from None
