# SPDX-License-Identifier: Apache-2.0
"""A second descriptor that bypasses the page cache, if the target allows it."""

from __future__ import annotations

import mmap
import os

from fastdl import fs
from fastdl.sinks import syscalls

_PROBE_BYTES = 4096


def open_direct(fd: int, *, blank: bool) -> tuple[int, int]:
    """Open what *fd* names once more with O_DIRECT.

    *blank*: the target is an empty file of ours and may be written to for the test.
    Returns (descriptor, alignment in bytes), or (*fd*, 1) if direct writes are refused.
    The name is not used: a file swapped in meanwhile cannot be opened by mistake.
    """
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return fd, 1
    align = syscalls.direct_align(direct)
    if align is None:
        align = _PROBE_BYTES if _works(direct, blank=blank) else 0
    if align == 0:
        fs.close(direct)
        return fd, 1
    return direct, max(align, 512)


def _works(direct: int, *, blank: bool) -> bool:
    with mmap.mmap(-1, _PROBE_BYTES, mmap.MAP_PRIVATE) as page:
        try:
            if blank:
                os.pwritev(direct, [page], 0)
                os.ftruncate(direct, 0)
            else:
                os.preadv(direct, [page], 0)
        except OSError:
            return False
    return True
