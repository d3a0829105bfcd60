# SPDX-License-Identifier: Apache-2.0
"""Security headers of every response of the API port: run, frame and guess nothing."""

from __future__ import annotations

from typing import Final

import aiohttp.web_response
from aiohttp import web

SERVER: Final = "fastdl"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""For pages: their own files, and nothing inline."""
CSP_DATA: Final = "default-src 'none'; frame-ancestors 'none'"
"""For responses that are not pages."""
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def secure(app: web.Application) -> None:
    """Add these headers to every response of *app*."""
    # aiohttp's own responses to malformed HTTP bypass signals, and name its version and Python's.
    aiohttp.web_response.SERVER_SOFTWARE = SERVER  # type: ignore[attr-defined]

    async def add(_request: web.BaseRequest, response: web.StreamResponse) -> None:
        response.headers["Server"] = SERVER
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        page = response.content_type == "text/html"
        response.headers.setdefault("Content-Security-Policy", CSP if page else CSP_DATA)

    app.on_response_prepare.append(add)
