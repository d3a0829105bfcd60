# SPDX-License-Identifier: Apache-2.0
"""Where does a job work? The opened target, its journal, a place to stage, the name at the end.

Everything that needs a name is here: opening before the job, publishing and tidying up after
it. In between descriptors suffice, so that a process without any right to the target's folder
can do the job (see ``fastdl.agent.child_workspace``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from fastdl import fs
from fastdl.engine.options import HERE, FetchOptions, Placement
from fastdl.errors import FastdlError
from fastdl.sinks.base import Sink, sink_error
from fastdl.sinks.null import NullSink
from fastdl.sinks.open import existing_file, open_sink

if TYPE_CHECKING:
    from pathlib import Path

    from fastdl.engine.cancel import Checked
    from fastdl.engine.context import TransferContext
    from fastdl.engine.journal_file import JournalFile
    from fastdl.engine.result import Result
    from fastdl.model.image import Format


class Existing(NamedTuple):
    """A regular file that the target is already: its *path*, and *fd* open for reading."""

    path: str
    fd: int


class Workspace:
    """One job's. Either ``existing`` is set, for the job to compare, or ``sink`` is to be filled.

    ``keep``  what is on the target is worth something to a later run of the job
    """

    def __init__(
        self, sink: Sink, *, existing: Existing | None = None, state_dir: str | None = None
    ) -> None:
        self.sink = sink
        self.existing = existing
        self.keep = sink.resumable
        self._state_dir = state_dir

    @property
    def journal(self) -> JournalFile | None:
        """Where the journal lies; None for what cannot be resumed."""
        from fastdl.engine.journal import journal_path  # after the first request

        return journal_path(self.sink, self._state_dir)

    def begin(self, size: int | None, *, sparse: bool) -> None:
        """Take possession of the target: see ``Sink.preallocate``."""
        self.sink.preallocate(size, sparse=sparse)

    @contextmanager
    def staging(self, *, ids: Sequence[int] | None = None) -> Iterator[Path]:
        """A folder of the job's own, for the user *ids* alone: beside a file, else in the state
        folder."""
        from pathlib import Path

        from fastdl.engine import staging

        if self.sink.kind == "file":
            made = staging.beside(Path(self.sink.path), ids=ids)
        else:
            from fastdl.engine.journal_file import default_state_dir

            state = Path(self._state_dir or default_state_dir())
            made = staging.within(state / "staging", ids=ids)
        with made as folder:
            yield folder

    def convert(self, source: Path, target: Path, fmt: Format, cancel: Checked) -> None:
        """Have qemu-img make the raw *target* of an inspected *source*; see ``engine.convert``."""
        from fastdl.engine.convert import convert

        convert(source, target, fmt, cancel)

    def publish(self, size: int) -> None:
        """Make the first *size* bytes, proven and durable, the target; the journal has served.

        What was there already is made durable: whoever published it may have failed to.
        """
        if self.existing is not None:
            _make_durable(self.existing)
            return
        self.sink.publish(size)
        if self.journal is not None:
            self.journal.remove()

    def abort(self) -> None:
        """Leave nothing that looks like an image; with ``keep`` what a later run can go on with."""
        if self.existing is not None:
            return
        if not self.keep and self.journal is not None:
            self.journal.remove()
        self.sink.abort(keep=self.keep)

    def publishing(self, work: Callable[[], Result], ctx: TransferContext) -> Result:
        """Do *work*, which fills the target, and publish it; the workspace is closed on return.

        Where that fails nothing is left that looks like an image.
        """
        try:
            result = work()
            self.publish(result.target_bytes)
        except BaseException:
            with contextlib.suppress(FastdlError):
                self.abort()
            ctx.cancel.check()  # a wait that was cut short failed because of it
            raise
        finally:
            self.close()
        ctx.events.warn(*self.sink.warnings)
        return result._replace(seconds=ctx.seconds, warnings=ctx.events.warnings)

    def descriptors(self) -> tuple[int, ...]:
        """Those that a job works with, and no other."""
        return self.sink.descriptors() if self.existing is None else (self.existing.fd,)

    def close(self) -> None:
        """Release descriptors and locks."""
        if self.existing is not None:
            os.close(self.existing.fd)
            self.existing = None
        self.sink.close()


def open_workspace(
    target: str,
    options: FetchOptions,
    placement: Placement = HERE,
    *,
    name_hint: str | None = None,
) -> Workspace:
    """Open *target*, or refuse; nothing that it holds has been changed on return.

    Raises UsageError, SinkRefusedError, SinkBusyError, SinkSpaceError, SinkIOError.
    """
    if options.overwrite != "file":
        existing = _open_existing(target, name_hint)
        if existing is not None:
            return Workspace(NullSink(), existing=existing)
    sink = open_sink(
        target,
        name_hint=name_hint,
        overwrite=options.overwrite,
        resume=options.resume,
        policy=options.policy,
        beneath=placement.beneath,
    )
    return Workspace(sink, state_dir=placement.state_dir)


def _open_existing(target: str, name_hint: str | None) -> Existing | None:
    path = existing_file(target, name_hint=name_hint)
    if path is None:
        return None
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        return Existing(path, os.open(path, flags))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise sink_error(error, f"opening {path}") from None


def _make_durable(existing: Existing) -> None:
    """Flush the file and its name."""
    try:
        os.fsync(existing.fd)
        folder = fs.open_folder(os.path.dirname(existing.path) or ".")  # noqa: PTH120
        try:
            fs.sync_folder(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise sink_error(error, f"{existing.path} is complete, but cannot be flushed") from None
