# SPDX-License-Identifier: Apache-2.0
"""The interface of a target, whatever its kind.

A sink's Python half decides whether a target may be written and when it is published;
its C half (``csrc/sink``) moves the bytes through the descriptors named here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fastdl.errors import (
    FastdlError,
    SinkBusyError,
    SinkIOError,
    SinkRefusedError,
    SinkSpaceError,
    shortage,
)

if TYPE_CHECKING:
    from fastdl.core.sink import Sink as CoreSink

HOLD_BYTES = 1 << 20
"""How much a block device holds back at head and tail until everything else is verified."""


def stale_tail(capacity: int, image_size: int | None) -> tuple[int, int]:
    """[start, end) at the end of a device that a job zeroes before anything lands on it.

    What the former content left there (a backup partition table) would outlive a smaller
    image. Of an image whose size shows only at its end all of it goes: what the image has for
    that place is written over the zeros.
    """
    covered = 0 if image_size is None else image_size
    return max(covered, capacity - HOLD_BYTES, 0), capacity


Identity = dict[str, str | int]
"""Identifies a target across processes and restarts; stored in the journal."""

Permit = Callable[[Identity, Callable[[int, int], bytes]], bool]
"""Whether an earlier run of a job left what a device of this identity holds; it reads (length,
offset) → bytes."""


class Sink(Protocol):
    """One opened target. The calls come in this order, each at most once but ``close``:

    ``check_size`` → ``preallocate`` → (the C sink: begin, writes, flush, release) →
    ``publish`` or ``abort`` → ``close``.

    ``kind``         file, block, nbd or null
    ``path``         as the user named it, for messages
    ``fd``           O_DIRECT where ``align`` > 1; -1 without a descriptor
    ``buffered_fd``  the same target through the page cache; the same as ``fd`` where ``align`` is 1
    ``align``        what offset, length and address of a direct write are multiples of; 1: none
    ``capacity``     bytes a device can hold; None if the target grows
    ``sector_size``  bytes of the smallest unit the target can write
    ``hold``         bytes held back at head and tail
    ``blank``        the target is known to read as zeros
    ``resumable``    there may be bytes of an earlier job on it
    ``sent``         bytes that have left for good, so that no attempt may start over
    ``identity``     what a journal must name to be about this target
    ``folder_fd``    the folder a file lies in, opened once under the path policy; None elsewhere
    ``name``         the file's name in that folder; None elsewhere
    ``warnings``     what the target could not do, for the result
    ``refusal``      why it may be written only by the job whose work it holds; None: by any
    """

    kind: str
    path: str
    fd: int
    buffered_fd: int
    align: int
    capacity: int | None
    sector_size: int
    hold: int
    blank: bool
    resumable: bool
    sent: int
    identity: Identity
    folder_fd: int | None
    name: str | None
    refusal: FastdlError | None

    @property
    def warnings(self) -> Sequence[str]: ...

    def check_size(self, size: int) -> None:
        """Refuse what cannot fit, before the first write.

        Raises SinkSpaceError.
        """

    def preallocate(self, size: int | None, *, sparse: bool = False) -> None:
        """Make room for *size* bytes (None: not known); from here on the target belongs to the job.

        *sparse*: only set the length, if most of the image is known to be holes.
        Raises SinkSpaceError, SinkIOError.
        """

    def seal(self, size: int) -> int:
        """Make *size* bytes durable; all but the name. Returns the time of change in ns, or 0.

        ``publish`` does it where it was not done. Raises as that does.
        """

    def publish(self, size: int) -> None:
        """Make *size* durable bytes the target. The caller has verified digest, size and format.

        Raises SinkRefusedError, SinkSpaceError, SinkIOError; the target is then not published.
        """

    def abort(self, *, keep: bool) -> None:
        """Leave nothing that looks like an image; *keep* what a later job can resume from.

        Without effect after ``publish``. Raises SinkIOError.
        """

    def core_sink(self, size: int | None, *, hold: int | None = None) -> CoreSink:
        """The C half, for an image of *size* bytes; *hold* instead of the target's own."""

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that another process needs to fill the target."""

    def hand_over(self) -> None:
        """A fork of this process fills the target; this one may still publish or abort."""

    def taken(self, size: int | None) -> None:
        """That process took possession of the target, for an image of *size* bytes."""

    def hurry(self) -> None:
        """From any thread: end now, no longer waiting for a server's responses."""

    def close(self) -> None:
        """Release descriptors and locks."""


class DescriptorSink:
    """What sinks over descriptors of this process have in common."""

    fd: int = -1
    buffered_fd: int = -1
    align: int = 1
    hold: int = 0
    blank: bool = False
    sent: int = 0
    refusal: FastdlError | None = None

    def seal(self, size: int) -> int:
        """Without effect: the C sink has flushed what it wrote."""
        del size
        return 0

    def core_sink(self, size: int | None, *, hold: int | None = None) -> CoreSink:
        """The C half writes through the descriptors, which stay this object's."""
        from fastdl.core.sink import Sink as CoreSink  # after the first request

        return CoreSink(
            self.fd,
            self.buffered_fd,
            align=self.align,
            size=size,
            hold=self.hold if hold is None else hold,
            blank=self.blank,
        )

    def descriptors(self) -> tuple[int, ...]:
        """Both ways to the target, the one through the page cache first."""
        return tuple(fd for fd in dict.fromkeys((self.buffered_fd, self.fd)) if fd >= 0)

    def hand_over(self) -> None:
        """No effect: both processes hold the same open file."""

    def taken(self, size: int | None) -> None:
        """No effect: the target itself shows that it was begun."""

    def hurry(self) -> None:
        """No effect: there is no server to wait for."""


class DeviceEnds:
    """The rules that block devices and NBD exports share.

    Their content is not destroyed unasked; head and tail are zero while a job runs and after
    one that failed. ``size`` is the device's, in bytes.
    """

    path: str
    size: int
    identity: Identity
    refusal: FastdlError | None = None
    _ours = False
    _image: int | None = None

    def check_size(self, size: int) -> None:
        """Compare *size* with the device; SinkSpaceError."""
        if size > self.size:
            raise SinkSpaceError(
                f"{self.path}: the image needs {size} bytes, the target has {self.size}",
                phase="land",
            )

    def taken(self, size: int | None) -> None:
        """Its ends are ours to zero where the job fails."""
        self._ours = True
        self._image = None if size is None else min(size, self.size)

    def ends(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """[start, end) of the head and of the tail that a failed job leaves zero."""
        end = self.size if self._image is None else self._image
        return (0, min(HOLD_BYTES, self.size)), (max(0, end - HOLD_BYTES), end)

    def check_signature(
        self,
        read: Callable[[int, int], bytes],
        overwrite: str | None,
        permit: Permit | None = None,
    ) -> None:
        """Refuse a target whose content the caller did not name.

        *read*: (length, offset) → bytes. *overwrite*: the signatures that may be destroyed, as
        blkid spells them, joined by commas. *permit*: asked where something else was found; where
        it says yes, ``refusal`` is for everybody but the job that left it. SinkRefusedError.
        """
        from fastdl.sinks import signature  # devices only

        tail_bytes = min(self.size, signature.TAIL_BYTES)
        head = read(min(self.size, signature.HEAD_BYTES), 0)
        tail = read(tail_bytes, self.size - tail_bytes)
        found = signature.probe(head, tail, self.size)
        allowed = set(overwrite.split(",")) if overwrite else set()
        if not set(found) <= allowed:
            refusal = SinkRefusedError(
                f"{self.path} carries a signature: to destroy its content, use overwrite "
                f"'{','.join(found)}'",
                phase="land",
            )
            if permit is None or not permit(self.identity, read):
                raise refusal
            self.refusal = refusal


_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BUSY = {errno.EBUSY, errno.ETXTBSY}
_REFUSED = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENODEV,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,
}


def read_back(fd: int, length: int, offset: int) -> bytes:
    """Up to *length* bytes of a target or of a file of ours, one ``pread``. SinkError."""
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise sink_error(error, "reading what was written") from None


def sink_error(error: OSError, what: str, *, phase: str = "land") -> FastdlError:
    """The class that says who can fix *error*; *what* names the target and the step."""
    text = f"{what}: {error.strerror or error}"
    if (short := shortage(error, what)) is not None:
        return short.add_context(phase=phase)
    if error.errno in _SPACE:
        return SinkSpaceError(text, phase=phase)
    if error.errno in _BUSY:
        return SinkBusyError(text, phase=phase)
    if error.errno in _REFUSED:
        return SinkRefusedError(text, phase=phase)
    return SinkIOError(text, phase=phase)
