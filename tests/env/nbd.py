# SPDX-License-Identifier: Apache-2.0
"""How does a test get a real NBD server? nbdkit with its fault filters, or qemu's own.

And a disk that misbehaves below a loop device: nbdkit's export as a file, by nbdfuse.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

_START_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NbdServer:
    """A running server on a Unix socket."""

    socket: Path
    process: subprocess.Popen[bytes]
    name: str = ""

    @property
    def uri(self) -> str:
        """What names its export."""
        return f"nbd+unix:///{quote(self.name)}?socket={quote(str(self.socket))}"


@contextlib.contextmanager
def nbdkit(
    folder: Path, plugin: Sequence[str], *, filters: Sequence[str] = (), options: Sequence[str] = ()
) -> Iterator[NbdServer]:
    """``nbdkit --filter=F… PLUGIN…`` with its socket in *folder*; skips where it is absent."""
    if not shutil.which("nbdkit"):
        pytest.skip("nbdkit is not installed")
    socket = folder / f"nbdkit-{time.monotonic_ns()}.sock"
    words = ["nbdkit", "--foreground", "--exit-with-parent", f"--unix={socket}", *options]
    words += [f"--filter={name}" for name in filters]
    with _running([*words, *plugin], socket) as process:
        yield NbdServer(socket=socket, process=process)


@contextlib.contextmanager
def qemu_export(folder: Path, image: Path, *, driver: str) -> Iterator[NbdServer]:
    """*image* (raw or qcow2: *driver*) as the writable export ``disk`` of qemu-storage-daemon."""
    if not shutil.which("qemu-storage-daemon"):
        pytest.skip("qemu-storage-daemon is not installed")
    socket = folder / f"qsd-{time.monotonic_ns()}.sock"
    words = [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,filename={image},node-name=file,discard=unmap"),
        *("--blockdev", f"driver={driver},file=file,node-name=image,discard=unmap"),
        *("--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=8"),
        *("--export", "type=nbd,id=e,node-name=image,name=disk,writable=on"),
    ]
    with _running(words, socket) as process:
        yield NbdServer(socket=socket, process=process, name="disk")


@contextlib.contextmanager
def nbdfuse(folder: Path, command: Sequence[str]) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """What *command* (``nbdkit -s …``) exports as a file below *folder*, and nbdfuse's process."""
    for tool in ("nbdfuse", "nbdkit", "fusermount3"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("nbdfuse needs root and /dev/fuse")
    mount = folder / "fuse"
    mount.mkdir()
    disk = mount / "disk"
    process = subprocess.Popen(
        ["nbdfuse", str(disk), "--command", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_S
        while not disk.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"nbdfuse does not start here over {' '.join(command)}")
            time.sleep(0.02)
        yield disk, process
    finally:
        _unmount(mount, process)


def _unmount(mount: Path, process: subprocess.Popen[bytes]) -> None:
    """The detached loop device may hold the file for a moment more."""
    for _ in range(50):
        done = subprocess.run(
            ["fusermount3", "-u", str(mount)], capture_output=True, check=False, timeout=30
        )
        if done.returncode == 0 or process.poll() is not None:
            break
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait(10)
    subprocess.run(["fusermount3", "-uz", str(mount)], capture_output=True, check=False)


@contextlib.contextmanager
def _running(words: Sequence[str], socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                _, said = process.communicate()
                pytest.skip(f"{words[0]} does not start: {said.decode(errors='replace')[-300:]}")
            time.sleep(0.01)
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _listens(socket: Path) -> bool:
    """Whether connections to it succeed; without one, which a filter might count."""
    found = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    accepting = "00010000"  # __SO_ACCEPTCON: bound is not enough
    return any(words[3] == accepting and words[-1] == str(socket) for words in found)
