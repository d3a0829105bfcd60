# SPDX-License-Identifier: Apache-2.0
"""From a URL to a mirror of the core: which protocol, which credentials, how it was found."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from fastdl.core.net import LOCAL_CLASS, Mirror, is_site_address
from fastdl.errors import NetError, PolicyError
from fastdl.model.url import Url, looks_like_host


def header_lines(url: Url, headers: Iterable[tuple[str, str]]) -> str | None:
    """The header lines that go to the origin of *url* and to no other; None for none.

    Userinfo becomes Basic credentials unless the caller gave an Authorization.
    """
    fields = tuple(headers)
    if url.username is not None and not _authorizes(fields):
        fields = (*fields, basic(url.username, url.password or ""))
    return "".join(f"{name}: {value}\r\n" for name, value in fields) or None


def with_login(
    url: Url,
    headers: tuple[tuple[str, str], ...],
    credentials: Iterable[tuple[str, str, str]],
) -> tuple[tuple[str, str], ...]:
    """*headers*, and what *credentials* (host, user, password) have for the host of *url*, and for
    its user where it names one, unless these or the URL have a password already."""
    if url.password is not None or _authorizes(headers):
        return headers
    logins = [
        basic(user, password)
        for host, user, password in credentials
        if host == url.host and url.username in (None, user)
    ]
    return (*headers, *logins[:1])


def basic(user: str, password: str) -> tuple[str, str]:
    """Basic credentials (RFC 7617) as a header field."""
    from base64 import b64encode

    pair = f"{user}:{password}".encode()
    return "Authorization", f"Basic {b64encode(pair).decode('ascii')}"


def _authorizes(headers: Iterable[tuple[str, str]]) -> bool:
    return any(name.lower() == "authorization" for name, _ in headers)


_TO_STRANGERS: Final = 8
_TO_OWN: Final = 16
_TO_STORES: Final = 32
_STORES: Final = (
    ".amazonaws.com",
    ".backblazeb2.com",
    ".blob.core.windows.net",
    ".digitaloceanspaces.com",
    ".r2.cloudflarestorage.com",
    ".storage.googleapis.com",
    ".wasabisys.com",
)


def connections_to(url: Url) -> int:
    """How many connections an origin of that kind stands, if nobody says how many.

    Object stores are made for it; a site's own server (a private address) is its business; of
    others nothing is known, and somebody pays for them.
    """
    if not url.is_http:
        return 4
    if f".{url.host}".endswith(_STORES) or (url.query and "X-Amz-Signature=" in url.query):
        return _TO_STORES
    return _TO_OWN if is_site_address(url.host) else _TO_STRANGERS


def make_mirror(
    url: Url,
    *,
    headers: Iterable[tuple[str, str]] = (),
    priority: int = 999999,
    max_connections: int = 1,
    linked_from: int | None = None,
) -> Mirror:
    """The core's mirror for *url*. NetError where a local file cannot be opened.

    *linked_from*: class of the address whose metalink or link led here (a local metalink's is
    loopback, as a file's); None: typed.
    """
    kind = {"http": "http", "https": "http", "nfs": "nfs"}.get(url.scheme, "file")
    fd = -1
    if kind == "file":
        if linked_from is not None:
            raise PolicyError("a metalink may not lead to a local file")
        try:
            fd = os.open(url.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            hint = ""
            if isinstance(exc, FileNotFoundError) and looks_like_host(url.path):
                hint = " (for a URL put https:// or http:// in front)"
            raise NetError(
                f"{url.path} cannot be read: {exc.strerror}{hint}", phase="resolve", retryable=False
            ) from None
    return Mirror(
        kind,
        url.request_text(),
        headers=header_lines(url, tuple(headers)) if kind == "http" else None,
        priority=priority,
        max_connections=max_connections,
        linked=linked_from is not None,
        from_class=LOCAL_CLASS if linked_from is None else linked_from,
        fd=fd,
    )
