# SPDX-License-Identifier: Apache-2.0
"""A small HTTPS origin: the files of one folder, with ranges and entity tags.

``python -m fastdl.lab.origin FOLDER CHAIN KEY PORT_FILE``
"""

from __future__ import annotations

import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 1 << 20


class _Files(BaseHTTPRequestHandler):
    """The files of one folder, with single ranges and entity tags."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        """Answer with the file or the range asked for."""
        path = self.folder / Path(self.path.split("?")[0]).name
        if not path.is_file():
            self.send_error(404)
            return
        size, stamp = path.stat().st_size, path.stat().st_mtime_ns
        first, last, status = 0, size - 1, 200
        match = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", self.headers.get("Range", ""))
        if match:
            first = int(match[1])
            last = min(int(match[2] or last), size - 1)
            status = 206
            if first > last:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(status)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{stamp:x}-{size:x}"')
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self._send(path, first, last)

    def _send(self, path: Path, first: int, last: int) -> None:
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left > 0 and (block := file.read(min(CHUNK, left))):
                self.wfile.write(block)
                left -= len(block)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: who starts it has its own story to tell."""


def main(arguments: list[str]) -> None:
    """Serve FOLDER with the certificate in CHAIN and its KEY; write the port to PORT_FILE."""
    folder, chain, key, port_file = (Path(argument) for argument in arguments)
    _Files.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    # The handshake belongs to each connection's own thread, not to the one that accepts.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    port_file.write_text(f"{server.server_port}\n")
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
