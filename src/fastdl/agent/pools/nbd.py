# SPDX-License-Identifier: Apache-2.0
"""How does the engine write to storage that only qemu's drivers can reach?

``qemu-nbd`` opens the image and offers it on a Unix socket in a private folder, to one
client. The key is passed in a file in that folder, never in an argument list.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastdl.errors import SinkIOError, SinkRefusedError

_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RbdImage:
    """One image of a Ceph pool. *hosts*: monitors as (name, port); *key_hex*: the client's key."""

    pool: str
    image: str
    hosts: tuple[tuple[str, int], ...]
    user: str = ""
    key_hex: str = field(default="", repr=False)

    def options(self, *, secret: str | None) -> dict[str, Any]:
        """qemu's block options for it."""
        found: dict[str, Any] = {"driver": "rbd", "pool": self.pool, "image": self.image}
        if self.hosts:
            found["server"] = [{"host": host, "port": str(port)} for host, port in self.hosts]
        if self.user:
            found["user"] = self.user
        if secret:
            found["key-secret"] = secret
        return found


@contextlib.contextmanager
def exported(image: RbdImage) -> Iterator[str]:
    """The URI of *image* as raw bytes, valid inside the ``with`` block."""
    secret = bytes.fromhex(image.key_hex) if image.key_hex else None
    with exported_node(image.options(secret="key" if secret else None), secret=secret) as uri:
        yield uri


@contextlib.contextmanager
def exported_node(options: Mapping[str, Any], *, secret: bytes | None = None) -> Iterator[str]:
    """The NBD URI of the node that qemu's block *options* describe.

    *secret* is the value of the object ``key``. SinkRefusedError if qemu cannot open it,
    SinkIOError if the export did not end cleanly, so that its last flush is in doubt.
    """
    program = shutil.which("qemu-nbd")
    if program is None:
        raise SinkRefusedError("writing to this pool needs qemu-nbd (package qemu-utils)")
    with tempfile.TemporaryDirectory(prefix="fastdl-nbd-") as name:
        folder = Path(name)
        listener = folder / "socket"
        words = [
            *(program, "--persistent", "--cache=none", "--discard=unmap"),
            *("--shared=4", f"--socket={listener}", "--image-opts"),
        ]
        if secret is not None:
            key = folder / "key"
            key.touch(mode=0o600)
            key.write_bytes(base64.b64encode(secret))
            words += ["--object", f"secret,id=key,format=base64,file={key}"]
        words.append(_image_opts(options))
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _wait(process, listener)
            yield f"nbd+unix:///?socket={quote(str(listener))}"
        finally:
            status = _stop(process)
        if status != 0:
            raise SinkIOError(f"qemu-nbd exited with status {status} after the last write")


def _image_opts(options: Mapping[str, Any]) -> str:
    """qemu's key=value spelling of nested *options*; a comma inside a value is doubled."""
    flat: list[str] = []

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                add(f"{prefix}.{at}", inner)
        else:
            flat.append(f"{prefix}={str(value).replace(',', ',,')}")

    add("", options)
    return ",".join(flat)


def _wait(process: subprocess.Popen[bytes], path: Path) -> None:
    """Return when the export sends its greeting; the socket exists before qemu-nbd is ready."""
    deadline = time.monotonic() + _START_SECONDS
    while not _greets(path):
        if process.poll() is not None:
            assert process.stderr is not None
            words = process.stderr.read(2000).decode(errors="replace").strip()
            raise SinkRefusedError(f"qemu-nbd cannot open the volume: {words}")
        if time.monotonic() > deadline:
            raise SinkRefusedError("qemu-nbd did not offer the volume in time")
        time.sleep(0.02)


def _greets(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
            return client.recv(8) == b"NBDMAGIC"
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Stop the export, which flushes; return its exit status."""
    process.terminate()
    try:
        process.communicate(timeout=_START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode
