# SPDX-License-Identifier: Apache-2.0
"""``/``: the page, files that are read once and served unchanged.

Every address in the page is relative, so that a proxy can serve it from a subfolder.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from fastdl.manager.api.headers import CSP

STATIC: Final = Path(__file__).parent / "static"
INDEX: Final = "index.html"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
WORTH_PACKING: Final = 512
"""Bytes below which a compressed response is no shorter on the wire."""


@dataclass(frozen=True, slots=True)
class Page:
    """One file, as it is sent."""

    content_type: str
    plain: bytes
    packed: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """Return the file at *path*."""
        plain = path.read_bytes()
        packed = gzip.compress(plain, mtime=0) if len(plain) >= WORTH_PACKING else b""
        etag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
        return cls(TYPES[path.suffix], plain, packed, etag)

    async def serve(self, request: web.Request) -> web.Response:
        """Handle one request. The browser revalidates each time: after an upgrade no page mixes
        files of two versions.
        """
        headers = {"Cache-Control": "no-cache", "ETag": self.etag, "Vary": "Accept-Encoding"}
        if self.content_type == "text/html":
            # Set here because a 304, which has no type, replaces the stored headers.
            headers["Content-Security-Policy"] = CSP
        known = request.headers.get("If-None-Match", "")
        if self.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
            return web.Response(status=304, headers=headers)
        body = self.plain
        if self.packed and "gzip" in request.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = self.packed, "gzip"
        headers["Content-Type"] = f"{self.content_type}; charset=utf-8"
        return web.Response(body=body, headers=headers)


def add_page(app: web.Application) -> None:
    """Serve the page at ``/`` and its parts below ``/static/``."""
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            where = "/" if path.name == INDEX else f"/static/{path.name}"
            app.router.add_get(where, Page.read(path).serve)
