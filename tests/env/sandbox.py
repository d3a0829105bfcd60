# SPDX-License-Identifier: Apache-2.0
"""Where are the commands of a guide run as they stand, as root, with the guide's names and paths?

In namespaces of their own. /etc and /var are the machine's with a layer above, in which fastdl has
never run; /run and /var/log are empty, /srv is a folder of the test's. The guides' hosts are
addresses of the loopback interface. All processes end with the first one, and nothing is left.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from fastdl.lab.certs import Authority, Identity

ENTER: Final = (
    *("unshare", "--mount", "--net", "--uts", "--ipc", "--pid"),
    *("--fork", "--kill-child", "--mount-proc"),
    *("bash", "-c", '"$@" & wait $!', "init"),  # the first process has to reap the others'
)
"""The words before a command that is to be in a sandbox of its own. They need root."""
HOSTS: Final = {
    "a.example": "10.77.0.1",
    "b.example": "10.77.0.2",
    "cloud.example": "10.77.0.3",
    "mirror.example": "10.77.0.4",
    "mgmt.example": "10.77.0.5",
    "kvm1": "10.77.0.6",
}
PUBLIC: Final = ("a.example", "b.example", "cloud.example")
"""Those whose certificates the machine's own authorities signed."""
_BUNDLE: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_EMPTY: Final = ("/var/lib/fastdl", "/etc/fastdl", "/etc/cloudstack", "/etc/libvirt/storage")
_COMMAND_S: Final = 120.0
_SERVER: Final = """server {{
    listen 80;
    listen 443 ssl;
    server_name {name};
    root /srv/www/{name};
    ssl_certificate {chain};
    ssl_certificate_key {key};
    types {{ application/metalink4+xml meta4; }}
}}
"""


def missing() -> str | None:
    """Why there can be no sandbox here; None where there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for tool in ("unshare", "ip", "pgrep", "nginx", "qemu-img", "openssl", "sqlite3", "curl"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    layers = ["mount", "-t", "overlay", "-o", "lowerdir=/etc:/var", "overlay", "/srv"]
    done = subprocess.run([*ENTER, *layers], capture_output=True, text=True, check=False)
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else None


def prepare(folder: Path, devices: Mapping[str, str]) -> None:
    """Give this process, which has namespaces of its own, the guides' surroundings.

    *folder* is empty; *devices*: a name below /dev → the device that it stands for.
    """
    fresh = folder / "fresh"
    fresh.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "guides", fresh)
    for name in ("etc", "var"):
        upper, work = fresh / name, fresh / f"{name}.work"
        upper.mkdir()
        work.mkdir()
        layers = f"lowerdir=/{name},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "-o", layers, "overlay", f"/{name}")
    for place in ("/run", "/var/log"):
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "guides", place)
    for place in ("/run/lock", "/var/log/nginx", "/var/log/libvirt/qemu"):
        Path(place).mkdir(parents=True, exist_ok=True)
    for place in _EMPTY:
        shutil.rmtree(place, ignore_errors=True)
    (folder / "srv").mkdir()
    _run("mount", "--bind", folder / "srv", "/srv")
    if devices:
        _devices(fresh / "dev", devices)
    _run("ip", "link", "set", "lo", "up")
    for address in HOSTS.values():
        _run("ip", "address", "add", f"{address}/32", "dev", "lo")
    names = "".join(f"{address} {name}\n" for name, address in HOSTS.items())
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{names}")
    socket.sethostname("kvm1")


def _devices(made: Path, devices: Mapping[str, str]) -> None:
    """A /dev with the same devices, and links to some of them as LVM makes them."""
    made.mkdir()
    for entry in os.scandir("/dev"):
        found = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            (made / entry.name).symlink_to(Path(entry.path).readlink())
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            os.mknod(made / entry.name, found.st_mode, found.st_rdev)
            (made / entry.name).chmod(stat.S_IMODE(found.st_mode))
    for name in ("pts", "shm"):
        (made / name).mkdir()
        _run("mount", "--bind", f"/dev/{name}", made / name)
    for name, device in devices.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).symlink_to(device)
    _run("mount", "--bind", made, "/dev")


def mirrors(folder: Path, *, private: bool) -> Authority:
    """Start Debian's nginx with the guides' hosts, each of which serves /srv/www/HOST.

    The machine trusts those of PUBLIC; the certificate of mirror.example, which is there if
    *private*, is signed by the authority that is returned.
    """
    public = Authority(folder / "public")
    with _BUNDLE.open("a") as bundle:
        bundle.write(public.ca.cert_file.read_text())
    own = Authority(folder / "private")
    leaves = {name: _leaf(public, name) for name in PUBLIC}
    if private:
        leaves["mirror.example"] = _leaf(own, "mirror.example")
    config = Path("/etc/nginx/conf.d/guides.conf")
    for name, leaf in leaves.items():
        Path("/srv/www", name).mkdir(parents=True)
        with config.open("a") as file:
            file.write(_SERVER.format(name=name, chain=leaf.chain, key=leaf.key))
    for site in Path("/etc/nginx/sites-enabled").iterdir():
        site.unlink()
    _run("nginx")
    return own


def _leaf(authority: Authority, name: str) -> Identity:
    return authority.make(name, issuer=authority.ca, san=(x509.DNSName(name),))


class Shell:
    """A shell in which one command after the other is run, as in a terminal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        home = folder / "home"
        home.mkdir()
        (folder / "bin").mkdir()
        shim = folder / "bin/systemctl"
        shim.write_text(_SYSTEMCTL)
        shim.chmod(0o755)
        programs = f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"HOME": str(home), "PATH": programs, "LANG": "C.UTF-8", "UNITS": str(_UNITS)}
        env["PYTHONUNBUFFERED"] = "1"  # the order of both outputs is a terminal's
        self.home = home
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=home,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._type("set -o pipefail")

    def run(self, text: str) -> tuple[int, Path]:
        """Run *text*; its exit code, and the file that has what it prints, or goes on printing.

        TimeoutError where it does not end.
        """
        self._number += 1
        script, output = (self._folder / f"{self._number}.{end}" for end in ("sh", "out"))
        script.write_text(text + "\n")
        self._type(f"source {script} >{output} 2>&1 </dev/null; echo $?")
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_COMMAND_S):
                raise TimeoutError(f"after {_COMMAND_S:g} s: {output.read_text()}")
        return int(self._process.stdout.readline()), output

    def close(self) -> None:
        """End it; what it left running goes on."""
        self._process.kill()
        self._process.communicate()

    def _type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


def until(check: Callable[[], bool], *, within: float = 60) -> bool:
    """Whether *check* becomes true in time."""
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def libvirt() -> None:
    """Start a libvirtd of the sandbox's own."""
    for name in ("virtlogd", "libvirtd"):
        with Path(f"/var/log/{name}.log").open("wb") as log:
            subprocess.Popen([name], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    library: Any = pytest.importorskip("libvirt")
    library.registerErrorHandler(lambda *_: None, None)

    def answers() -> bool:
        with contextlib.suppress(library.libvirtError):
            library.open("qemu:///system").close()
            return True
        return False

    if not until(answers):
        raise RuntimeError(Path("/var/log/libvirtd.log").read_text())


def _run(*words: str | Path) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr.strip()}")


_UNITS = Path(__file__).resolve().parents[2] / "packaging"
_SYSTEMCTL = """#!/bin/bash
# systemd's command, for units of this repository and nginx: no systemd runs in a sandbox.
set -eu
start() {
    local unit=$1 ready=$2
    (
        while IFS='=' read -r key value; do
            case $key in
            Environment) export "${value?}" ;;
            EnvironmentFile)
                if [ -e "${value#-}" ]; then
                    while read -r line; do export "${line?}"; done <"${value#-}"
                fi
                ;;
            ExecStart) command=$value ;;
            esac
        done <"$UNITS/$unit.service"
        eval "exec setsid $command" >>"/var/log/$unit.log" 2>&1
    ) &
    echo $! >"/run/$unit.pid"
    for _ in $(seq 600); do
        ! grep -q "$ready" "/var/log/$unit.log" || return 0
        kill -0 $! 2>/dev/null || { cat "/var/log/$unit.log"; exit 1; }
        sleep 0.1
    done
    exit 1
}
stop() {
    kill "$(cat "/run/$1.pid")"
    while kill -0 "$(cat "/run/$1.pid")" 2>/dev/null; do sleep 0.1; done
    rm -f "/run/$1.pid" "/var/log/$1.log"
}
verb=$1 unit=${*: -1}
case "$verb $unit" in
"reload nginx")
    master=$(cat /run/nginx.pid)
    before=$(pgrep -P "$master")
    nginx -q -t && kill -HUP "$master"
    for _ in $(seq 200); do
        ! pgrep -P "$master" | grep -qvxF "$before" || exit 0
        sleep 0.05
    done
    exit 1
    ;;
start*fastdl-manager | enable*fastdl-manager) start "$unit" '^fastdl manager serves' ;;
start*fastdl-agent | enable*fastdl-agent) start "$unit" ' connected' ;;
restart*) stop "$unit"; exec "$0" start "$unit" ;;
stop*) stop "$unit" ;;
*) echo "systemctl $*: not in a sandbox" >&2; exit 1 ;;
esac
"""
