# SPDX-License-Identifier: Apache-2.0
"""How does a VMDK, VHD, VHDX or VDI become a raw disk? By qemu-img, under tight limits."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from fastdl.engine.cancel import Checked
from fastdl.errors import FormatError, SinkSpaceError, UsageError
from fastdl.model.image import Format
from fastdl.sinks.syscalls import die_with_parent

_QEMU_DRIVERS = {
    # The footer's current size. By default qemu uses the geometry's size for some creators, which
    # is up to a cylinder smaller.
    Format.VHD: "vpc,force_size_calc=current_size",
    Format.VHDX: "vhdx",
    Format.VMDK: "vmdk",
    Format.VDI: "vdi",
}
_ROOM = 4 << 20
"""qemu-img writes at most this much at a time."""
CONVERT_CPU_S = 3600
CONVERT_MEMORY = 2 << 30


def convert(
    source: Path,
    target: Path,
    fmt: Format,
    cancel: Checked,
    *,
    confine: Callable[[], object] | None = None,
    folder: Path | None = None,
) -> None:
    """Run qemu-img on an image that was inspected: explicit formats, limits, no network.

    *confine*: what the new process does to itself first; it then sees to the network as well.
    *folder*: where it enters by that, which *source* and *target* are relative to.
    UsageError if qemu-img is missing, FormatError if it refuses the image.
    """
    tool = shutil.which("qemu-img")
    if tool is None:
        raise UsageError(f"converting {fmt} needs qemu-img (Debian: qemu-utils)")
    # Options instead of a name: nothing in a path is read as a protocol (commas are doubled).
    image = f"driver={_QEMU_DRIVERS[fmt]},file.driver=file,file.filename=" + str(source).replace(
        ",", ",,"
    )
    command = [
        *(tool, "convert", "--image-opts", "-O", "raw", "-S", "64k"),
        *("--", image, str(target)),
    ]
    unshare = shutil.which("unshare")
    if unshare and os.geteuid() == 0 and confine is None:
        command = [unshare, "--net", "--", *command]

    parent = os.getpid()

    def limits() -> None:
        # It would go on for an hour for nobody.
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CPU, (CONVERT_CPU_S, CONVERT_CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (CONVERT_MEMORY, CONVERT_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if confine is not None:
            confine()

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        preexec_fn=limits,  # noqa: PLW1509 - only system calls in there
        text=True,
    )
    try:
        while process.poll() is None:
            cancel.check()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    except BaseException:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise
    if process.returncode != 0:
        said = (process.stderr.read() if process.stderr else "").strip()[-200:]
        if _is_full(target.parent if folder is None else folder):
            raise SinkSpaceError("no space to convert the staged image", phase="decode")
        raise FormatError(f"qemu-img cannot convert this {fmt}: {said}", phase="decode")


def _is_full(folder: Path) -> bool:
    """Whether qemu-img may have stopped for lack of space."""
    room = os.statvfs(folder)
    return room.f_blocks > 0 and room.f_bavail * room.f_frsize < _ROOM
