# SPDX-License-Identifier: Apache-2.0
"""How does an object store check a signed link? By Signature Version 4, as AWS describes it.

A server of one object, path-style, with ranges. It computes signatures by itself; a test for it
compares them with botocore's.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, urlsplit

ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@dataclass(slots=True)
class Store:
    """A running store. *cut*: bytes after which each response breaks off; None for none.
    *open*: everybody may read. *pause*: seconds before each response. *sent*: bytes of objects."""

    port: int
    path: str
    content: bytes
    cut: int | None = None
    open: bool = False
    pause: float = 0.0
    sent: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    signatures: set[str] = field(default_factory=set)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def signature(method: str, host: str, target: str, secret: str = SECRET) -> str:
    """What ``X-Amz-Signature`` has to be of a request for *target* at *host*."""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.pop("X-Amz-Signature", None)
    encoded = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query.items())
    canonical = "\n".join(
        [
            method,
            parts.path,
            "&".join(f"{k}={v}" for k, v in encoded),
            f"host:{host}\n",
            "host",
            "UNSIGNED-PAYLOAD",
        ]
    )
    _, day, region, service, _ = query["X-Amz-Credential"].split("/")
    scope = f"{day}/{region}/{service}/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{scope}\n{hashed}"
    key = f"AWS4{secret}".encode()
    for word in (day, region, service, "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def refusal(host: str, target: str) -> str | None:
    """Why the store answers 403, None where it does not."""
    query = dict(parse_qsl(urlsplit(target).query))
    if "X-Amz-Signature" not in query or not query["X-Amz-Credential"].startswith(ACCESS):
        return "AccessDenied"
    if not hmac.compare_digest(query["X-Amz-Signature"], signature("GET", host, target)):
        return "SignatureDoesNotMatch"
    start = dt.datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%S%z").timestamp()
    return "Request has expired" if time.time() > start + int(query["X-Amz-Expires"]) else None


@contextlib.contextmanager
def object_store(
    path: str, content: bytes, *, cut: int | None = None, pause: float = 0.0
) -> Iterator[Store]:
    """A store that has *content* at *path*, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client had enough
                self._get()

        def _get(self) -> None:
            why = None if store.open else refusal(self.headers["Host"], self.path)
            self._answer(403 if why else 404 if self.path.split("?")[0] != path else 206, why)

        def _answer(self, status: int, why: str | None) -> None:
            store.statuses.append(status)
            time.sleep(store.pause)
            if status != 206:
                body = (why or "NoSuchKey").encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            store.signatures.add(self.path)
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(found[1]), int(found[2] or 1 << 60)) if found else (0, 1 << 60)
            last = min(last, len(content) - 1)
            body = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("ETag", '"one"')
            for name, value in store.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if store.cut is not None and len(body) > store.cut:
                body = body[: store.cut]
                self.close_connection = True
            self.wfile.write(body)
            store.sent += len(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients leave as they like."""

    server = Server(("127.0.0.1", 0), Handler)
    store = Store(server.server_port, path, content, cut, pause=pause)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
