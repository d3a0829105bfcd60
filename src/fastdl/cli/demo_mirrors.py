# SPDX-License-Identifier: Apache-2.0
"""The demo's origins: a private CA, an HTTPS server with ranges, and a metalink over it."""

from __future__ import annotations

import datetime as dt
import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

from fastdl.model.address import parse_address

CHUNK = 1 << 20


def make_certificates(folder: Path) -> None:
    """Write ca.pem (a private CA's certificate) and mirror.pem (key and certificate)."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("demo CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=7))
        )

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = (
        builder("demo CA", ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    address = x509.IPAddress(parse_address("127.0.0.1"))
    leaf = (
        builder("demo mirror", key)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "mirror.pem").write_bytes(private + leaf.public_bytes(pem))


def metalink(name: str, size: int, sha256: str, urls: list[str]) -> str:
    """Return a metalink (RFC 5854) for one file at *urls*."""
    mirrors = "".join(
        f'<url priority="{n}">{escape(url)}</url>' for n, url in enumerate(urls, start=1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink">'
        f'<file name="{escape(name)}"><size>{size}</size>'
        f'<hash type="sha-256">{sha256}</hash>{mirrors}</file></metalink>'
    )


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
        """Say nothing: the demo tells its own story."""


def main(arguments: list[str]) -> None:
    """Serve FOLDER with the certificate in PEM; write the port to a file."""
    folder, pem, port_file = (Path(argument) for argument in arguments)
    _Files.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    # The handshake belongs to each connection's own thread, not to the one that accepts.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    port_file.write_text(f"{server.server_port}\n")
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
