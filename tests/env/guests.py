# SPDX-License-Identifier: Apache-2.0
"""What uses a template on a KVM host? Real qemu programs, started and ended by their own ids."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env import images

_START_SECONDS = 30.0


def overlay(path: Path, base: Path | str, *, kind: str = "qcow2", base_kind: str = "raw") -> Path:
    """A linked clone at *path*: an image whose backing file is *base*, named as written."""
    if not images.HAVE_QEMU:
        pytest.skip(images.NEED_QEMU)
    images.run(
        *("qemu-img", "create", "-q", "-f", kind, "-u", "-F", base_kind),
        *("-b", str(base), path, "8M"),
    )
    return path


@contextlib.contextmanager
def storage_daemon(image: Path, *, kind: str = "raw", driver: str = "file") -> Iterator[int]:
    """A qemu-storage-daemon that has *image* open, read-only, with qemu's locks; its pid."""
    with _running(
        "qemu-storage-daemon",
        *("--blockdev", f"driver={driver},node-name=f,filename={image},read-only=on,locking=on"),
        *("--blockdev", f"driver={kind},node-name=d,file=f,read-only=on"),
        image=image,
    ) as pid:
        yield pid


@contextlib.contextmanager
def machine(disk: Path, *, kind: str = "qcow2") -> Iterator[int]:
    """A virtual machine, which does nothing, with *disk*; its pid."""
    with _running(
        "qemu-system-x86_64",
        *("-M", "none", "-nodefaults", "-nographic", "-S", "-monitor", "none"),
        *("-blockdev", f"driver={kind},node-name=d,file.driver=file,file.filename={disk}"),
        image=disk,
    ) as pid:
        yield pid


@contextlib.contextmanager
def _running(program: str, *words: str, image: Path) -> Iterator[int]:
    if not shutil.which(program):
        pytest.skip(f"no {program} on this machine")
    process = subprocess.Popen(
        [program, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _has_open(process.pid, image):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                assert process.stderr is not None
                pytest.fail(f"{program}: {process.stderr.read().decode(errors='replace')}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _has_open(pid: int, image: Path) -> bool:
    with contextlib.suppress(OSError):
        links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        return str(image) in links
    return False
