# SPDX-License-Identifier: Apache-2.0
"""What does a job that decodes its source keep for its next run? The source's blocks, unchanged.

The target holds the decoded image, from which the source cannot be rebuilt. So the blocks also go
to a file in the job's staging folder, as long as they arrive no faster than they could soon be
fetched again (``SPOOL_RATE`` in ``csrc/job/verify.c``). The next run reads them there, and digests,
checks and decodes all of them as if they came from a mirror.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from fastdl import fs
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.journal_file import Location
from fastdl.errors import SinkSpaceError
from fastdl.sinks.base import Identity, sink_error

if TYPE_CHECKING:
    from fastdl.engine.staging import Staging
    from fastdl.engine.workspace import Workspace

SPARE = 4
"""A source is kept if so many times its size are free: a full disk would harm others."""


class Spool:
    """An opened file for the blocks of a source, each at its own offset, and its journal.

    ``fd``, ``hold``, ``identity``, ``kind``, ``resumable``: as of a ``Sink``.
    """

    kind = "spool"
    resumable = True
    hold = 0

    def __init__(self, staging: Staging) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.journal = Location(str(staging.path / "spool.journal"))
        self.fd = os.open(staging.path / "spool", flags, 0o600)
        self.identity: Identity = {"kind": self.kind, "ino": os.fstat(self.fd).st_ino}
        self._staging = staging
        self._held = contextlib.ExitStack()

    @classmethod
    def opened(cls, workspace: Workspace, size: int) -> Spool:
        """That of *workspace*, for a source of *size* bytes, with what an earlier run kept.

        Raises SinkError; SinkSpaceError if it would take too much of the free space.
        """
        with contextlib.ExitStack() as held:
            staging = held.enter_context(workspace.staging())
            try:
                spool = cls(staging)
                held.callback(fs.close, spool.fd)
                begun = os.fstat(spool.fd).st_size > 0
                room = os.fstatvfs(spool.fd)
            except OSError as error:
                raise sink_error(error, f"keeping the source in {staging.path}") from None
            # Some file systems (FUSE, network) report nothing: all zero.
            if not begun and room.f_blocks and room.f_bavail * room.f_frsize < SPARE * size:
                raise SinkSpaceError(
                    f"its source is not kept, since {staging.path.parent} has less than {SPARE} "
                    "times its size free",
                    phase="land",
                )
            spool._held = held.pop_all()
        return spool

    def core_sink(self, size: int) -> CoreSink:
        """The C half, for a source of *size* bytes."""
        return CoreSink(self.fd, self.fd, align=1, size=size, hold=0, blank=False)

    def close(self, *, keep: bool) -> None:
        """Close the file; *keep* it, and its folder, for the next run."""
        self._staging.keep = keep
        self._held.close()
