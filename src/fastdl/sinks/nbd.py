# SPDX-License-Identifier: Apache-2.0
"""An NBD export as a target: whatever qemu or nbdkit can write, through one protocol.

The same rules as for a block device: checked before anything is written, head and tail zero while a
job runs and after one that failed. Data is written over the connections that were checked.
"""

from __future__ import annotations

import contextlib
import re

from fastdl.core.nbd import Export
from fastdl.core.sink import Sink as CoreSink
from fastdl.errors import FastdlError, SinkRefusedError
from fastdl.sinks.base import HOLD_BYTES, DeviceEnds, Identity, Permit, stale_tail

CONNECTIONS = 4
REQUEST_LIMIT_S = 60.0
"""One request of at most 4 MiB; a server that needs longer has stopped working."""

_URI = re.compile(r"(?P<scheme>[^:]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>[^#]*)")


class NbdSink(DeviceEnds):
    """A :class:`fastdl.sinks.base.Sink` over the export that *uri* names.

    overwrite  the signatures that may be destroyed, as blkid spells them, joined by commas
    permit     see ``DeviceEnds.check_signature``
    limit      seconds that one request may take
    """

    kind = "nbd"
    hold = HOLD_BYTES
    blank = False
    fd = -1
    buffered_fd = -1
    align = 1
    # Without a descriptor the engine cannot read back what an earlier job left.
    resumable = False
    sent = 0
    folder_fd: int | None = None
    name: str | None = None
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        uri: str,
        *,
        overwrite: str | None = None,
        limit: float = REQUEST_LIMIT_S,
        permit: Permit | None = None,
    ) -> None:
        self.path = shown(uri)
        self._uri = uri
        self._limit = limit
        self._export: Export | None = self._connect(CONNECTIONS)
        try:
            self.size = self._export.size
            self.capacity: int | None = self.size
            self.sector_size = max(512, self._export.min_block)
            self.identity: Identity = {"kind": "nbd", "uri": self.path, "size": self.size}
            if self._export.read_only:
                raise SinkRefusedError(f"{self.path} is read-only", phase="land")
            self.check_signature(self._export.pread, overwrite, permit)
        except BaseException:
            self.close()
            raise

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Take possession: what the former content left at the very end (backup GPT) goes."""
        self.taken(size)
        start, end = stale_tail(self.size, size)
        self._zero(self._opened(), start, end)

    def core_sink(self, size: int | None, *, hold: int | None = None) -> CoreSink:
        """The C half writes over the connections of this one."""
        return self._opened().sink(size=size, hold=self.hold if hold is None else hold)

    def seal(self, size: int) -> int:
        """Without effect: the C sink has flushed what it wrote."""
        del size
        return 0

    def publish(self, size: int) -> None:
        """The C sink wrote and flushed the held-back places; nothing else makes it valid."""
        self._ours = False

    def abort(self, *, keep: bool) -> None:
        """Zero head and tail, durably; over a new connection where the old ones are lost."""
        if not self._ours:
            return
        if self._export is not None:
            with contextlib.suppress(FastdlError):
                self._zero_ends(self._export)
                return
        self.close()
        self._export = self._connect(1)
        self._export.hurry()
        self._zero_ends(self._export)

    def descriptors(self) -> tuple[int, ...]:
        """The sockets of the connections."""
        return self._opened().descriptors()

    def hand_over(self) -> None:
        """Both processes would use the same connections: this one closes its ends."""
        self._opened().drop()
        self._export = None

    def hurry(self) -> None:
        """Pending and later requests get two seconds each."""
        export = self._export
        if export is not None:
            export.hurry()

    def close(self) -> None:
        """Close the connections."""
        if self._export is not None:
            self._export.close()
        self._export = None

    def _opened(self) -> Export:
        if self._export is None:
            raise ValueError("the target is closed")
        return self._export

    def _connect(self, connections: int) -> Export:
        try:
            return Export(self._uri, max_connections=connections, limit=self._limit)
        except FastdlError as error:
            raise type(error)(
                f"{self.path}: {error.message}", phase="land", retryable=error.retryable
            ) from None

    def _zero_ends(self, export: Export) -> None:
        for start, end in self.ends():
            self._zero(export, start, end)

    def _zero(self, export: Export, start: int, end: int) -> None:
        if start < end:
            export.zero(start, end - start)
            export.flush()


def open_nbd(
    uri: str, *, overwrite: str | None, resume: bool, permit: Permit | None = None
) -> NbdSink:
    """Open the export of *uri*; nothing that it holds has been changed on return.

    Every job starts over: *resume* has no effect.
    Raises UsageError, SinkRefusedError, SinkIOError.
    """
    return NbdSink(uri, overwrite=overwrite, permit=permit)


def shown(uri: str) -> str:
    """*uri* without what may be secret: userinfo, and every parameter but the socket."""
    parts = _URI.match(uri)
    if parts is None:
        return uri.partition(":")[0] + ":"
    host = parts["authority"].rpartition("@")[2]
    query = [word for word in parts["query"].lstrip("?").split("&") if word.startswith("socket=")]
    return f"{parts['scheme']}://{host}{parts['path']}" + (f"?{query[0]}" if query else "")
