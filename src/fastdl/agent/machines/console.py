# SPDX-License-Identifier: Apache-2.0
"""What did a guest write to its serial console? A file that virtlogd writes, and its end."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from fastdl.agent.machines.guests import check_id
from fastdl.errors import SinkRefusedError
from fastdl.sinks.base import sink_error

_LOG: Final = "console.log"
_KEPT: Final = frozenset("\n\t")


def path(state: Path, machine: str) -> Path:
    """The console's file of *machine*."""
    return state / "machines" / check_id(machine) / _LOG


def prepare(state: Path, machine: str) -> Path:
    """The console's file, in a folder that exists."""
    file = path(state, machine)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise sink_error(exc, str(file.parent)) from exc
    return file


def tail(state: Path, machine: str, most: int) -> str:
    """Return the last *most* bytes as text, without what could command a terminal.

    SinkRefusedError for a machine that this host has no console of.
    """
    file = path(state, machine)
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SinkRefusedError(f"the machine {machine} has no console on this host") from None
    except OSError as exc:
        raise sink_error(exc, str(file)) from exc
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise SinkRefusedError(f"{file} is not a regular file")
        data = os.pread(fd, most, max(0, found.st_size - most))
    finally:
        os.close(fd)
    return plain(data)


def plain(data: bytes) -> str:
    """Return *data* as text; of control characters only line ends and tabs stay."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    return "".join(c for c in text if c.isprintable() or c in _KEPT)


def remove(state: Path, machine: str) -> None:
    """Remove the console's file, and older parts of it, which virtlogd numbers."""
    folder = path(state, machine).parent
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if file.name.startswith(_LOG):
                file.unlink()
        folder.rmdir()
