# SPDX-License-Identifier: Apache-2.0
"""A long line between two network namespaces, over which the kernel's real TCP runs.

    near: contestants -- tun ==(delay)== tun with a token bucket -- far: the origin

The rate is the kernel's (qdisc tbf at the far end), the delay is this program's: it carries the
packets of every pair of tun devices and holds each for half a round trip, because not every
kernel has netem. Slow start, receive windows and congestion control are real.

    python benchmarks/line.py NEAR FAR --rtt 0.05 --rate 100000000 --pairs 1

runs between two existing namespaces, prints a line when the devices are up, and ends when it
is terminated. Pair *i* has 10.77.i.1 near and 10.77.i.2 far, each pair its own link.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_NEW_NETWORK: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUN_NO_PI_VNET_HDR: Final = 0x0001 | 0x1000 | 0x4000
_OFFLOADS: Final = 0x01 | 0x02 | 0x04 | 0x08  # checksums and segments stay with the kernel
_PACKET: Final = (1 << 16) + 64
_QUEUE_BYTES: Final = 256 << 20  # more is dropped: no sender has that much in flight
_BURST: Final = 256 << 10
_QUEUE_S: Final = 0.05  # the buffer of the router before the link
_AT_ONCE: Final = 64


def missing() -> str | None:
    """Why a line cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "iproute2 is not installed"
    return None if Path("/dev/net/tun").exists() else "the kernel has no tun devices"


def addresses(count: int) -> list[str]:
    """The far ends of *count* pairs."""
    return [f"10.77.{index}.2" for index in range(count)]


@contextlib.contextmanager
def inside(space: str) -> Iterator[None]:
    """Put this thread, and what it starts, into the network namespace *space*."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(there)
        os.close(home)


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Two namespaces and the process that carries packets between them."""

    near: str
    far: str
    process: subprocess.Popen[bytes]
    how: str


@contextlib.contextmanager
def between(*, rtt_s: float, rates: Sequence[int]) -> Iterator[Line]:
    """A line with one pair of devices per rate (bytes/s, 0: unlimited); removed at the end.

    ``RuntimeError`` if it cannot be made.
    """
    if reason := missing():
        raise RuntimeError(f"no network namespaces: {reason}")
    name = f"fastdl-bench-{os.getpid()}"
    near, far = f"{name}-near", f"{name}-far"
    with contextlib.ExitStack() as stack:
        for space in (near, far):
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "delete", space)
            _ip("-n", space, "link", "set", "lo", "up")
        argv = [sys.executable, __file__, near, far, "--rtt", str(rtt_s)]
        argv += ["--rate", ",".join(map(str, rates))]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the line between the namespaces did not start")
        yield Line(near=near, far=far, process=process, how=_how(near, rates=rates))


def _how(space: str, *, rates: Sequence[int]) -> str:
    """For the result: how the path was made."""
    with inside(space):
        control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    limit = ", rate by qdisc tbf" if any(rates) else ""
    return f"network namespaces over tun, delay by benchmarks/line.py{limit}, TCP {control}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@dataclass(slots=True)
class _Direction:
    """Packets on their way from one device to another, each with the moment when it is due."""

    sink: int
    packets: deque[tuple[float, bytes]] = field(default_factory=deque)
    held: int = 0

    def take(self, source: int, due: float) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(source, _PACKET)
            except BlockingIOError:
                return
            if self.held < _QUEUE_BYTES:
                self.packets.append((due, packet))
                self.held += len(packet)

    def deliver(self, now: float) -> None:
        while self.packets and self.packets[0][0] <= now:
            _, packet = self.packets.popleft()
            self.held -= len(packet)
            with contextlib.suppress(OSError):  # a full queue drops, as a router does
                os.write(self.sink, packet)


def _device(space: str, name: str, address: str) -> int:
    """A tun device in *space* that passes whole segments; returns its descriptor."""
    with inside(space):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", name.encode(), _TUN_NO_PI_VNET_HDR)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    _ip("-n", space, "address", "add", f"{address}/24", "dev", name)
    _ip("-n", space, "link", "set", name, "mtu", "1500", "txqueuelen", "10000", "up")
    return fd


def _limit(space: str, device: str, rate: int) -> None:
    words = f"qdisc add dev {device} root tbf rate {rate * 8}bit burst {_BURST} latency {_QUEUE_S}s"
    subprocess.run(["tc", "-n", space, *words.split()], check=True)


def carry(pairs: Sequence[tuple[int, int]], rtt_s: float) -> None:
    """Carry packets between the devices of each pair, endlessly."""
    ways: dict[int, _Direction] = {}
    for near, far in pairs:
        ways[near], ways[far] = _Direction(far), _Direction(near)
    poll = select.epoll()
    for fd in ways:
        poll.register(fd, select.EPOLLIN)
    while True:
        due = min((way.packets[0][0] for way in ways.values() if way.packets), default=None)
        wait = -1 if due is None else max(0.0, due - time.monotonic())
        for fd, _ in poll.poll(wait):
            ways[fd].take(fd, time.monotonic() + rtt_s / 2)
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)


def main() -> None:
    """Make the devices, report that, carry packets."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("near")
    parser.add_argument("far")
    parser.add_argument("--rtt", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", default="0", help="bytes/s of each pair, 0 for no limit")
    args = parser.parse_args()
    pairs = []
    for index, rate in enumerate(map(int, args.rate.split(","))):
        near = _device(args.near, f"line{index}", f"10.77.{index}.1")
        far = _device(args.far, f"line{index}", f"10.77.{index}.2")
        if rate:
            _limit(args.far, f"line{index}", rate)
        pairs.append((near, far))
    print("ready", flush=True)
    carry(pairs, args.rtt)


if __name__ == "__main__":
    main()
