# SPDX-License-Identifier: Apache-2.0
"""The disks of a virtual machine: a Debian with systemd, LVM, libvirt and NFS, and fastdl.

The Debian is made once, of its packages, into a cache folder; each machine writes to an overlay.
fastdl comes on a second disk, as the tests' own environment has it.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import fastdl

ROOT = Path(__file__).parents[2]
DISTRIBUTION = "fastdl-kvm"
PLACE = "/opt/fastdl"
"""Where it is mounted in the machine."""
SUITE = "bookworm"
PYTHON = "3.11"
"""Debian's. The tests' own has to be of the same version: its compiled modules are used."""
MIRROR = os.environ.get("FASTDL_VM_MIRROR", "http://deb.debian.org/debian")
TOOLS = ("debootstrap", "mke2fs", "qemu-img", "qemu-system-x86_64")
BASE = ("systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "ca-certificates")
PACKAGES = (
    *("linux-image-amd64", "initramfs-tools"),
    *("procps", "python3", "nginx-light", "curl", "openssl"),
    *("lvm2", "nfs-kernel-server", "nfs-common", "qemu-utils"),
    *("libvirt-daemon-system", "libvirt-clients", "libvirt-daemon-driver-qemu"),
    *("libcurl4", "libnfs13", "libnbd0", "libdeflate0", "libxxhash0"),
)
_FILES = {
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n/dev/vdb /opt/fastdl ext4 ro 0 0\n",
    "etc/hostname": "machine\n",
    "etc/hosts": "127.0.0.1 localhost\n10.77.0.1 machine origin\n",
    "etc/systemd/system/tests.service": """[Unit]
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/tests.py
Restart=always
[Install]
WantedBy=multi-user.target
""",
    # Commands come as JSON lines; each runs in a shell, and its answer is a line as well.
    "usr/local/lib/tests.py": """
import base64, json, os, subprocess
port = os.open("/dev/virtio-ports/tests", os.O_RDWR)
held = b""
while data := os.read(port, 65536):
    *lines, held = (held + data).split(b"\\n")
    for line in lines:
        try:
            asked = json.loads(line)
        except ValueError:
            continue
        done = subprocess.run(["bash", "-c", asked["command"]],
                              input=base64.b64decode(asked["input"]),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        answer = {"id": asked["id"], "status": done.returncode,
                  "output": base64.b64encode(done.stdout).decode()}
        said = json.dumps(answer).encode() + b"\\n"
        while said:
            said = said[os.write(port, said):]
""",
    # What an emulator on a busy machine has not ready after 90 s has not failed.
    "etc/systemd/system.conf.d/slow.conf": """[Manager]
DefaultDeviceTimeoutSec=600s
DefaultTimeoutStartSec=600s
""",
    # An address that a strict policy takes for a private network's.
    "etc/systemd/system/address.service": """[Unit]
Before=network-online.target nginx.service nfs-server.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip link add dummy0 type dummy
ExecStart=/sbin/ip address add 10.77.0.1/24 dev dummy0
ExecStart=/sbin/ip link set dummy0 up
[Install]
WantedBy=multi-user.target
""",
}
_DISABLED = ("nginx", "nfs-server", "nfs-blkmap", "systemd-timesyncd", "e2scrub_reap")
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "fstrim.timer")


def missing() -> str | None:
    """Why there can be no machine here; None where there can."""
    if os.geteuid() != 0:
        return "making an image needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if ".".join(map(str, sys.version_info[:2])) != PYTHON:
        return f"the machine has Python {PYTHON}"
    return None


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def cache() -> Path:
    """The folder of this recipe's image."""
    recipe = json.dumps([SUITE, BASE, PACKAGES, _FILES, _DISABLED, _MASKED], sort_keys=True)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "fastdl" / f"vm-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"


def image() -> Path:
    """The folder of the image, made where it is missing: three minutes and 2 GB, once."""
    made = cache()
    if (made / "disk.img").exists():
        return made
    making = made.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    root = making / "root"
    root.mkdir(parents=True)
    words = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE)}"]
    run_tool([*words, SUITE, str(root), MIRROR], timeout=1800)
    never = root / "usr" / "sbin" / "policy-rc.d"
    never.write_text("#!/bin/sh\nexit 101\n")
    never.chmod(0o755)
    inside = ["chroot", str(root), "apt-get", "-y", "-qq"]
    run_tool([*inside, "update"], timeout=300)
    run_tool([*inside, "install", "--no-install-recommends", *PACKAGES], timeout=1800)
    run_tool([*inside, "clean"])
    never.unlink()
    for name, content in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "opt" / "fastdl").mkdir()
    systemctl = ["systemctl", f"--root={root}"]
    run_tool([*systemctl, "enable", "tests.service", "address.service"])
    run_tool([*systemctl, "disable", *_DISABLED])
    run_tool([*systemctl, "mask", *_MASKED])
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (root / "boot").glob(f"{name}-*")
        shutil.copy(found, making / name)
    _file_system(root, making / "disk.img", "4G")
    making.rename(made)
    return made


def run_tool(words: list[str], *, timeout: float = 120) -> str:
    """What *words* print. RuntimeError where they fail."""
    done = subprocess.run(
        words,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def program(disk: Path) -> None:
    """Make *disk*: fastdl with what it needs, as a virtual environment in PLACE."""
    into = disk.with_suffix("")
    packages = into / "lib" / f"python{PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    for name in sorted(_needed(DISTRIBUTION, {"libvirt"}) - {DISTRIBUTION}):
        found = metadata.distribution(name)
        for path in found.files or ():
            if ".." not in path.parts and path.suffix != ".pyc":
                (packages / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(found.locate_file(path)), packages / path)
    ours = Path(fastdl.__file__).parent
    shutil.copytree(ours, packages / "fastdl", ignore=shutil.ignore_patterns("__pycache__", "*.c"))
    # The machine mounts it read-only, and would compile each module at each start.
    compileall.compile_dir(
        packages,
        stripdir=str(into),
        prependdir=PLACE,
        quiet=2,
        workers=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    (into / "bin").mkdir()
    (into / "bin" / "python").symlink_to("/usr/bin/python3")
    (into / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    command = into / "bin" / "fastdl"
    command.write_text(
        f"#!{PLACE}/bin/python\nfrom fastdl.cli.main import entry\nraise SystemExit(entry())\n"
    )
    command.chmod(0o755)
    shutil.copytree(ROOT / "packaging", into / "packaging")
    _file_system(into, disk, "512M")


def _file_system(root: Path, disk: Path, size: str) -> None:
    """Turn the folder *root* into the file system *disk*."""
    words = ["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root)]
    run_tool([*words, str(disk), size], timeout=600)
    shutil.rmtree(root)


def _needed(name: str, extras: set[str]) -> set[str]:
    """The distributions that *name* needs, itself included."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - of the tests' own tools

    found, asked = set(), [(name, extras)]
    while asked:
        one, wanted = asked.pop()
        if one.lower() in found:
            continue
        found.add(one.lower())
        for text in metadata.requires(one) or ():
            need = Requirement(text)
            marked = [{"extra": extra} for extra in wanted or {""}]
            if need.marker is None or any(need.marker.evaluate(env) for env in marked):
                asked.append((need.name, set(need.extras)))
    return found
