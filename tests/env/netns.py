# SPDX-License-Identifier: Apache-2.0
"""How does a test get public, private and metadata addresses without a packet leaving?

A network namespace of its own whose loopback interface carries them all. Servers listen in
it from the test's process; a command runs in it behind ``Namespace.prefix``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_NEW_NETWORK = 0x40000000


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace by its name."""

    name: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a command inside."""
        return ("ip", "netns", "exec", self.name)

    def listen(self, host: str, port: int = 0) -> socket.socket:
        """A listening socket inside, on *host* (``::`` takes every address of both kinds)."""
        return self._inside(lambda: _listener(host, port))

    def names(self, host: str) -> socket.socket:
        """A datagram socket inside, on port 53 of *host*, for a name server."""
        return self._inside(lambda: _datagrams(host, 53))

    def _inside(self, make: Callable[[], socket.socket]) -> socket.socket:
        made: list[socket.socket] = []
        failed: list[OSError] = []

        def enter() -> None:
            try:
                self._enter()
                made.append(make())
            except OSError as error:
                failed.append(error)

        # The namespace belongs to a thread, so a thread of its own goes there and ends.
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return made[0]

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/var/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(fd, _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)


def _listener(host: str, port: int) -> socket.socket:
    if ":" in host:
        return socket.create_server(
            (host, port), family=socket.AF_INET6, dualstack_ipv6=host == "::"
        )
    return socket.create_server((host, port))


def _datagrams(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, port))
    return made


@contextlib.contextmanager
def network_namespace(
    addresses: Sequence[str],
    *,
    hosts: dict[str, str] | None = None,
    nameserver: str | None = None,
) -> Iterator[Namespace]:
    """A namespace with *addresses* on its loopback interface.

    *hosts*: name → addresses, separated by blanks; *nameserver* is asked for other names. Skips
    the test where namespaces cannot be made.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    space = Namespace(f"fastdl-test-{os.getpid()}-{os.urandom(3).hex()}")
    made = subprocess.run(
        ["ip", "netns", "add", space.name], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no network namespace: {made.stderr.strip()}")
    etc = Path("/etc/netns") / space.name
    try:
        etc.mkdir(parents=True)
        lines = [f"{a} {name}\n" for name, found in (hosts or {}).items() for a in found.split()]
        if nameserver is not None:
            (etc / "resolv.conf").write_text(
                f"nameserver {nameserver}\noptions timeout:1 attempts:1 no-aaaa\n"
            )
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        subprocess.run([*space.prefix, "ip", "link", "set", "lo", "up"], check=True)
        for address in addresses:
            subprocess.run(
                [*space.prefix, "ip", "address", "add", address, "dev", "lo"], check=True
            )
        yield space
    finally:
        subprocess.run(["ip", "netns", "delete", space.name], check=True)
        shutil.rmtree(etc, ignore_errors=True)
        with contextlib.suppress(OSError):
            etc.parent.rmdir()
