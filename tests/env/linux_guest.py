# SPDX-License-Identifier: Apache-2.0
"""A small Linux that boots: Debian's kernel, busybox and SYSLINUX, as a disk and as an ISO.

Its packages are downloaded and unpacked into a cache folder once, and not installed; nothing is
mounted. Its init prints one line on the first serial port.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

TOOLS: Final = ("syslinux", "mformat", "mcopy", "xorriso", "qemu-img", "apt-get", "dpkg-deb")
KERNEL: Final = "linux-image-cloud-amd64"
LINE: Final = "FASTDL GUEST IS UP"
_ISOLINUX: Final = Path("/usr/lib/ISOLINUX/isolinux.bin")
_LDLINUX: Final = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
_COMMAND: Final = "console=ttyS0 quiet panic=5"
_INIT: Final = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc
/bin/busybox mount -t devtmpfs none /dev
exec >/dev/ttyS0 2>&1 </dev/ttyS0
/bin/busybox echo "{LINE}: $(/bin/busybox uname -r)"
while :; do /bin/busybox sleep 60; done
"""


def require() -> None:
    """Skip the test where the guest cannot be built."""
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    absent += [str(path) for path in (_ISOLINUX, _LDLINUX) if not path.exists()]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "fastdl" / "linux-guest"


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=300, check=False,
        cwd=cwd, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def _kernel() -> Path:
    """Debian's kernel for virtual machines. Skips where its package cannot be had."""
    kept = _cache() / "vmlinuz"
    if kept.exists():
        return kept
    work = _cache() / f"work-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        found = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", KERNEL))
        if found is None:
            pytest.skip(f"apt knows no {KERNEL}: run apt-get update")
        _run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", found[1], cwd=work)
        (package,) = work.glob("*.deb")
        _run("dpkg-deb", "-x", package, work / "root")
        (image,) = (work / "root" / "boot").glob("vmlinuz-*")
        image.rename(kept)
    except RuntimeError as exc:
        pytest.skip(f"the kernel's package cannot be downloaded: {exc}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return kept


def _initrd(path: Path) -> Path:
    """An initial RAM disk with busybox and the init, as cpio's format "newc" has it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static not installed")
    files: list[tuple[str, int, bytes]] = [
        ("bin", 0o040755, b""),
        ("bin/busybox", 0o100755, Path(busybox).read_bytes()),
        ("init", 0o100755, _INIT.encode()),
        ("TRAILER!!!", 0, b""),
    ]
    parts = []
    for number, (name, mode, data) in enumerate(files, 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [head + bytes(-len(head) % 4), data + bytes(-len(data) % 4)]
    path.write_bytes(gzip.compress(b"".join(parts), 6))
    return path


def disk(folder: Path) -> Path:
    """A qcow2 disk that SYSLINUX boots."""
    raw, made = folder / "linux.raw", folder / "linux.qcow2"
    with raw.open("wb") as file:
        file.truncate(40 << 20)
    (folder / "syslinux.cfg").write_text(
        f"SERIAL 0 115200\nDEFAULT linux\nLABEL linux\nLINUX vmlinuz\nINITRD initrd\n"
        f"APPEND {_COMMAND}\n"
    )
    _run("mformat", "-i", raw, "-F", "-T", str((40 << 20) // 512), "-h", "64", "-s", "32", "::")
    _run("syslinux", "--install", raw)
    for source, name in (
        (_kernel(), "vmlinuz"),
        (_initrd(folder / "initrd"), "initrd"),
        (folder / "syslinux.cfg", "syslinux.cfg"),
    ):
        _run("mcopy", "-i", raw, source, f"::{name}")
    _run("qemu-img", "convert", "-c", "-O", "qcow2", raw, made)
    raw.unlink()
    return made


def iso(folder: Path) -> Path:
    """An ISO that ISOLINUX boots."""
    root = folder / "iso-root"
    root.mkdir()
    shutil.copy(_ISOLINUX, root)
    shutil.copy(_LDLINUX, root)
    shutil.copy(_kernel(), root / "vmlinuz")
    _initrd(root / "initrd")
    (root / "isolinux.cfg").write_text(
        f"SERIAL 0 115200\nDEFAULT linux\nLABEL linux\nKERNEL /vmlinuz\n"
        f"APPEND initrd=/initrd {_COMMAND}\n"
    )
    made = folder / "linux.iso"
    _run(
        "xorriso", "-as", "mkisofs", "-quiet", "-o", made, "-b", "isolinux.bin", "-c", "boot.cat",
        "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", root,
    )  # fmt: skip
    shutil.rmtree(root)
    return made
