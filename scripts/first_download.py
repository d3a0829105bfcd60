# SPDX-License-Identifier: Apache-2.0
"""How does a download from four mirrors look? Serves an image on loopback and fetches it.

Part of ``scripts/first-download``. The mirrors are one nginx with four HTTPS servers whose
certificate comes from a CA made for the run: two good ones with the speed of an
ordinary line, one slow, and one whose copy has a wrong byte in every piece.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastdl.lab.metalink import metalink_of
from tests.env.certs import CertLab

PIECE = 256 * 1024
RATES = {"good-1": "1m", "good-2": "1m", "slow": "64k", "corrupt": "1m"}
"""Mirror → bytes a second of one connection, as nginx writes it."""

CONFIG = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ application/metalink4+xml meta4; }}
    ssl_certificate {chain};
    ssl_certificate_key {key};
{servers}
}}
"""
SERVER = "    server {{ listen 127.0.0.1:{port} ssl; root {root}; limit_rate {rate}; }}"


def free_ports(count: int) -> list[int]:
    """Unused ports."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def spoil(image: bytes) -> bytes:
    """A copy of the same length that is wrong in every piece."""
    wrong = bytearray(image)
    for at in range(PIECE // 2, len(wrong), PIECE):
        wrong[at] ^= 0xFF
    return bytes(wrong)


@contextlib.contextmanager
def mirrors(folder: Path, image: Path) -> Iterator[tuple[str, Path]]:
    """Four mirrors of *image*; yields the metalink's URL and the CA's certificate."""
    certs = CertLab(folder / "ca")
    leaf = certs.leaf("good")
    content = image.read_bytes()
    ports = dict(zip(RATES, free_ports(len(RATES)), strict=True))
    urls = {name: f"https://127.0.0.1:{port}/{image.name}" for name, port in ports.items()}
    for name in RATES:
        root = folder / name
        root.mkdir()
        (root / image.name).write_bytes(spoil(content) if name == "corrupt" else content)
    meta = f"{image.name}.meta4"
    (folder / "good-1" / meta).write_text(
        metalink_of(content, list(urls.values()), name=image.name, piece=PIECE, ranked=False)
    )
    config = folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            folder=folder,
            chain=leaf.chain,
            key=leaf.key,
            user="user root;" if os.geteuid() == 0 else "",
            servers="\n".join(
                SERVER.format(port=ports[name], root=folder / name, rate=rate)
                for name, rate in RATES.items()
            ),
        )
    )
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        sys.exit("first-download: nginx is not installed")
    server = subprocess.Popen(
        [binary, "-p", folder, "-c", config], stderr=(folder / "stderr").open("wb")
    )
    try:
        for port in ports.values():
            await_port(server, port)
        yield f"https://127.0.0.1:{ports['good-1']}/{meta}", certs.ca.cert_file
    finally:
        server.terminate()
        server.wait(10)


def await_port(server: subprocess.Popen[bytes], port: int) -> None:
    """Return once *port* accepts; exits with nginx's own message if it does not start."""
    for _ in range(200):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"first-download: nginx did not start (exit code {server.poll()})")


def fetch(folder: Path, url: str, authority: Path, target: Path) -> int:
    """Run ``fastdl get`` in *folder* as a user would; its exit code."""
    progress = "bar" if sys.stderr.isatty() else "none"
    fastdl = Path(sys.executable).with_name("fastdl")
    words = ["get", url, "-o", str(target), "--cacert", str(authority)]
    print(f"$ {shlex.join(['fastdl', *words])}", flush=True)
    command = [fastdl, *words, "--progress", progress]
    return subprocess.run(command, cwd=folder, check=False).returncode


def compare(folder: Path, image: Path, target: Path) -> int:
    """sha256sum of the served and of the downloaded file, by a program other than fastdl."""
    print(f"$ sha256sum {target} {image}", flush=True)
    listing = subprocess.check_output(["sha256sum", target, image], cwd=folder, text=True)
    print(listing, end="")
    digests = {line.split()[0] for line in listing.splitlines()}
    print("the same digest" if len(digests) == 1 else "THE DIGESTS DIFFER", flush=True)
    return int(len(digests) != 1)


def main(arguments: list[str]) -> int:
    """``first_download IMAGE [TARGET]``: 0 if the image arrived with the same digest."""
    image = Path(arguments[0])
    with tempfile.TemporaryDirectory(prefix="fastdl-first-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        target = Path(arguments[1]) if len(arguments) > 1 else Path(image.name)
        with mirrors(folder, image) as (url, authority):
            rates = ", ".join(f"{name} {rate}/s" for name, rate in RATES.items())
            print(f"\n== four HTTPS mirrors on loopback (a connection's rate: {rates})\n")
            code = fetch(folder, url, authority.relative_to(folder), target)
            return code or compare(folder, (Path("good-1") / image.name), target)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
