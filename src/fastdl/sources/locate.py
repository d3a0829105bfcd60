# SPDX-License-Identifier: Apache-2.0
"""From a URL to a mirror of the core: which protocol, which credentials, how it was found."""

from __future__ import annotations

import os
from collections.abc import Iterable

from fastdl.core.net import LOCAL_CLASS, Mirror
from fastdl.errors import NetError, PolicyError
from fastdl.model.url import Url, looks_like_host


def header_lines(url: Url, headers: Iterable[tuple[str, str]]) -> str | None:
    """The header lines that go to the origin of *url* and to no other; None for none.

    Userinfo becomes Basic credentials (RFC 7617) unless the caller gave an Authorization.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    given = {name.lower() for name, _ in headers}
    if url.username is not None and "authorization" not in given:
        from base64 import b64encode

        pair = f"{url.username}:{url.password or ''}".encode()
        lines.append(f"Authorization: Basic {b64encode(pair).decode('ascii')}\r\n")
    return "".join(lines) or None


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
