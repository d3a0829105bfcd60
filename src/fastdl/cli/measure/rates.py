# SPDX-License-Identifier: Apache-2.0
"""What do the parts give alone: one connection, several, the storage, the digest, the interface?

All rates in bytes a second.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import time
from pathlib import Path

from fastdl.cli.measure.runs import Run, run_tool
from fastdl.cli.measure.tools import Task, get
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple

_WRITTEN = 256 << 20
_BLOCK = 4 << 20
_HASHED = 64 << 20


class Rates(NamedTuple):
    """The parts' rates; None where one could not be measured."""

    one_connection: float | None
    connections: float | None
    storage: float | None
    digest: float
    interface: float | None


def network_rate(
    task: Task, *, connections: int | None, limit_s: float
) -> tuple[float | None, Run]:
    """The rate with that many connections (None: as many as ``fastdl get`` opens), to nowhere."""
    number = ("--max-connections", str(connections)) if connections else ()
    run = run_tool(get(task, *number, target="null:"), task, limit_s=limit_s)
    if run.failure is not None:
        return None, run
    seconds = json.loads(run.output.splitlines()[-1]).get("seconds") or run.seconds
    return task.size / max(seconds, 1e-6), run


def storage_rate(folder: str, size: int) -> float | None:
    """Write up to 256 MiB to a file in *folder*, past the page cache where that is possible, until
    durable; the file is gone on return. None where there is no room for it."""
    size = max(_BLOCK, min(_WRITTEN, size) // _BLOCK * _BLOCK)
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < 2 * size:
        return None
    path = os.path.join(folder, "rate")  # noqa: PTH118
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        try:
            fd = os.open(path, flags | os.O_DIRECT, 0o600)
        except OSError:
            fd = os.open(path, flags, 0o600)
        try:
            with mmap.mmap(-1, _BLOCK) as block:
                block.write(os.urandom(_BLOCK))
                os.posix_fallocate(fd, 0, size)
                began = time.monotonic()
                for offset in range(0, size, _BLOCK):
                    os.pwrite(fd, block, offset)
                os.fdatasync(fd)
                return size / (time.monotonic() - began)
        finally:
            os.close(fd)
    except OSError:
        return None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108


def digest_rate() -> float:
    """SHA-256 on one processor, over memory: by the thread's time on it, whatever else runs."""
    from fastdl.core.digests import Digests

    data, digests = bytes(1 << 20), Digests("sha-256", 1 << 30)
    began = time.thread_time()
    for _ in range(_HASHED >> 20):
        digests.update(data)
    return _HASHED / max(time.thread_time() - began, 1e-9)


def interface_rate(url: str) -> float | None:
    """What the network interface towards *url* is said to do; None where it says nothing."""
    import fcntl
    import struct

    parsed = Url.parse(url)
    with contextlib.suppress(OSError, ValueError):
        found = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            own = probe.getsockname()[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    request = struct.pack("256s", name.encode()[:15])
                    address = fcntl.ioctl(asking, 0x8915, request)[20:24]  # SIOCGIFADDR
                    if socket.inet_ntoa(address) == own:
                        speed = int(Path(f"/sys/class/net/{name}/speed").read_text())
                        return speed * 1e6 / 8 if speed > 0 else None
    return None
