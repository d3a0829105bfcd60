# SPDX-License-Identifier: Apache-2.0
"""Where does a job work? The opened target, its journal, staging, and the final name.

Everything that needs a name is here: opening before the job, publishing and cleaning up after it.
In between descriptors suffice, so that a process without rights to the target's folder can do the
job (see ``fastdl.agent.child_workspace``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastdl import fs
from fastdl.engine.options import HERE, FetchOptions, Placement
from fastdl.errors import FastdlError
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.base import Sink, sink_error
from fastdl.sinks.file import FileSink
from fastdl.sinks.open import existing_file, open_sink
from fastdl.sinks.paths import journal_name, release_name

if TYPE_CHECKING:
    from pathlib import Path

    from fastdl.engine.cancel import Checked
    from fastdl.engine.context import TransferContext
    from fastdl.engine.journal_file import JournalFile, Location
    from fastdl.engine.release import Read, Release
    from fastdl.engine.result import Result
    from fastdl.engine.spool import Spool
    from fastdl.engine.staging import Staging
    from fastdl.model.image import Format
    from fastdl.sinks.base import Identity


_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Existing(NamedTuple):
    """The target as an existing regular file: its *path*, and *fd* open for reading."""

    path: str
    fd: int


class Workspace:
    """One job's. Either ``existing`` is set, for the job to compare, or ``sink`` is to be filled.

    ``keep``     the data on the target is useful to a later run of the job
    ``earlier``  the note of the run that left what the target shows, where it is one's
    ``whole``    it shows all of it
    ``staged``   the file is another job's source: the note stays, so that it is found again
    """

    def __init__(
        self, sink: Sink, *, existing: Existing | None = None, state_dir: str | None = None
    ) -> None:
        self.sink = sink
        self.existing = existing
        self.keep = sink.resumable
        self.earlier: Release | None = None
        self.whole = False
        self.staged = False
        self.found: Existing | None = None
        """What another program left, to be taken up once."""
        self.taken_up = False
        """It was, and is not proven."""
        self.damaged: Existing | None = None
        """A copy that the target replaces, and whose right pieces are taken."""
        self.mtime: float | None = None
        self._state_dir = state_dir
        self._note: Release | None = None
        self._spool: Spool | None = None

    @property
    def journal(self) -> JournalFile | None:
        """The journal's location; None if the target cannot be resumed."""
        from fastdl.engine.journal import journal_path  # after the first request

        return journal_path(self.sink, self._state_dir)

    @property
    def note_file(self) -> JournalFile | None:
        """Where the note of what is released lies; None where nothing is."""
        return _note_file(self.sink, self.sink.identity, self._state_dir)

    def note(self, note: Release) -> str | None:
        """Note what is about to show: now on a device, with the publication of a file.

        Returns a warning where it cannot be written: the job continues without.
        """
        if self.sink.kind == "file":
            self._note = note
            return None
        file = self.note_file
        if file is None:
            return None
        from fastdl.engine.release import write_note  # loaded with the note

        try:
            write_note(file, note, durable=True)
        except FastdlError as error:
            return _unprotected(file, error.message)
        except OSError as error:
            # Where notes cannot be kept the job goes without; a disk that fails or is full is said.
            if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
                raise sink_error(error, f"cannot write {file.path}") from None
            return _unprotected(file, error.strerror)
        return None

    def begin(self, size: int | None, *, sparse: bool) -> None:
        """Take possession of the target: see ``Sink.preallocate``."""
        self.sink.preallocate(size, sparse=sparse)

    @contextmanager
    def staging(self, *, ids: Sequence[int] | None = None, key: str = "") -> Iterator[Staging]:
        """A folder of the job's own, for the user *ids* alone: beside a file, else in the state
        folder. It has what an earlier run for this target and *key* kept in it."""
        from fastdl.engine import staging

        with staging.resumable(self._staged_at(key), ids=ids) as made:
            yield made

    def drop_staging(self, key: str = "") -> None:
        """The target is what it should be: what an earlier run staged has served."""
        from fastdl.engine import staging

        staging.forget(self._staged_at(key))

    def _staged_at(self, key: str = "") -> Path:
        from pathlib import Path

        from fastdl.engine import staging
        from fastdl.engine.journal import state_path

        if self.sink.kind == "file":
            return staging.path_beside(Path(self.sink.path), key)
        # Not where jobs have folders that nobody finds again: those are swept at once.
        journal = Path(state_path(self.sink.identity, self._state_dir, "journal").path)
        return staging.path_beside(journal.parent.with_name("staged") / journal.stem, key)

    @property
    def spooled(self) -> bool:
        """Whether there may be something of the source that was kept."""
        return self._spool is not None or os.path.lexists(self._staged_at())

    def spool(self, size: int) -> Spool:
        """Where all attempts of this job keep a source of *size* bytes; see ``Spool.opened``."""
        if self._spool is None:
            from fastdl.engine.spool import Spool

            self._spool = Spool.opened(self, size)
        return self._spool

    def drop_spool(self) -> None:
        """Nobody needs what this job has kept of its source."""
        if self._spool is not None:
            self._spool.close(keep=False)
            self._spool = None

    def convert(self, source: Path, target: Path, fmt: Format, cancel: Checked) -> None:
        """Convert an inspected *source* to the raw *target* with qemu-img; see
        ``engine.convert``."""
        from fastdl.engine.convert import convert

        convert(source, target, fmt, cancel)

    def publish(self, size: int) -> Callable[[], None]:
        """Make the first *size* bytes, proven and durable, the target; the journal has served.

        An existing target is made durable, in case its publisher failed to. Returns what to call
        when the result has been told: until then a file's note lies beside it, since who is killed
        before that is run again.
        """
        if self.existing is not None:
            return _nothing if self.staged else _make_durable(self.existing)
        if isinstance(self.sink, FileSink):
            self.sink.mtime = self.mtime
        note = self._note_beside(self.sink.seal(size))
        try:
            self.sink.publish(size)
        except FastdlError:
            # A name that could only not be flushed is there: the next run has to know it, by a
            # digest or else by the note.
            there = isinstance(self.sink, FileSink) and self.sink.published
            if note is not None and not (there and self._alone_knows()):
                note.unlink()
            raise
        if self.journal is not None:
            self.journal.remove()
        self.drop_spool()
        return _nothing if note is None or self.staged else _unlinking(note)

    def _note_beside(self, stamp: int) -> Location | None:
        """A file's note: a kill before its result is told has to find it, no more."""
        if self._note is None or self.sink.name is None:
            return None
        from fastdl.engine.journal_file import Location  # loaded with the note
        from fastdl.engine.release import write_note

        file = Location(release_name(self.sink.name), self.sink.folder_fd)
        with contextlib.suppress(OSError, FastdlError):  # what it is for may never happen
            write_note(file, self._note._replace(stamp=stamp), durable=self._alone_knows())
        return file

    def _alone_knows(self) -> bool:
        """Whether after a power cut only the note could tell what the file is."""
        assert self._note is not None
        shown = self._note.showing
        by_digest = self._note.known["digests"] and shown is not None and shown.landing == "same"
        return not self.staged and not by_digest

    def abort(self) -> None:
        """Leave nothing that looks like an image; with ``keep``, only what a later run can resume
        from."""
        if self.existing is not None:
            return
        if not self.keep and self.journal is not None:
            self.journal.remove()
        self.sink.abort(keep=self.keep)

    def publishing(self, work: Callable[[], Result], ctx: TransferContext) -> Result:
        """Do *work*, which fills the target, and publish it; the workspace is closed on return.

        If that fails, nothing is left that looks like an image.
        """
        try:
            result = work()
            told = self.publish(result.target_bytes)
        except BaseException:
            with contextlib.suppress(FastdlError):
                self.abort()
            ctx.cancel.check()  # a wait that was cut short failed because of it
            raise
        finally:
            self.close()
        ctx.events.when_told(told)
        ctx.events.warn(*self.sink.warnings)
        return result._replace(seconds=ctx.seconds, warnings=ctx.events.warnings)

    def keep_found(self) -> None:
        """What another program left is the whole: it stays, and nothing takes its place."""
        self.sink.abort(keep=False)
        self.existing, self.found = self.found, None

    def drop_found(self) -> None:
        """What another program left has been taken up, or cannot be; likewise a damaged copy."""
        for one in (self.found, self.damaged):
            if one is not None:
                fs.close(one.fd)
        self.found = self.damaged = None

    def descriptors(self) -> tuple[int, ...]:
        """Those that a job works with, and no other."""
        if self.existing is not None:
            return (self.existing.fd,)
        damaged = () if self.damaged is None else (self.damaged.fd,)
        return (*self.sink.descriptors(), *damaged)

    def close(self) -> None:
        """Release descriptors and locks."""
        self.drop_found()
        if self.existing is not None:
            fs.close(self.existing.fd)
            self.existing = None
        if self._spool is not None:
            self._spool.close(keep=True)
            self._spool = None
        self.sink.close()


def open_workspace(
    target: str,
    options: FetchOptions,
    placement: Placement = HERE,
    *,
    name_hint: str | None = None,
) -> Workspace:
    """Open *target*, or refuse; its content is unchanged on return.

    Raises UsageError, SinkRefusedError, SinkBusyError, SinkSpaceError, SinkIOError.
    """
    if target == "-" and placement.beneath is None:
        from fastdl.engine.journal_file import default_state_dir
        from fastdl.sinks.stream import StreamSink

        return Workspace(StreamSink(1, f"{placement.state_dir or default_state_dir()}/staging"))
    existing = None if options.overwrite == "file" else _open_existing(target, name_hint)
    if existing is not None:
        there = _of_existing(existing)
        if options.skip_existing or not options.take_up or there.earlier is not None:
            return there
    found: list[tuple[Release, bool]] = []

    def permit(identity: Identity, read: Read) -> bool:
        """Whether a run that was killed while it released the device's ends left this there."""
        from fastdl.engine.release import read_note  # rare

        note = read_note(_device_note(identity, placement.state_dir))
        if note is None or note.target != dict(identity):
            return False
        shows = note.shows(read)
        if shows is not False:
            found.append((note, shows is True))
        return bool(found)

    sink = open_sink(
        target,
        name_hint=name_hint,
        overwrite=options.overwrite if existing is None else "file",
        resume=options.resume,
        policy=options.policy,
        beneath=placement.beneath,
        permit=permit,
    )
    workspace = Workspace(sink, state_dir=placement.state_dir)
    workspace.found = existing
    if placement.damaged is not None:
        workspace.damaged = _open_damaged(placement.damaged)
    if found:
        workspace.earlier, workspace.whole = found[0]
    return workspace


def _note_file(sink: Sink, identity: Identity, state_dir: str | None) -> JournalFile | None:
    if sink.name is None:
        return _device_note(identity, state_dir) if sink.capacity is not None else None
    from fastdl.engine.journal_file import Location  # after the first request

    return Location(release_name(sink.name), sink.folder_fd)


def _unprotected(file: JournalFile, why: str | None) -> str:
    return (
        "if this download is killed at its very end, the device has to be named to be "
        f"overwritten: {file.path} cannot be written: {why}"
    )


def _device_note(identity: Identity, state_dir: str | None) -> JournalFile:
    from fastdl.engine.journal import state_path  # after the first request

    return state_path(identity, state_dir, "release")


def _of_existing(existing: Existing) -> Workspace:
    """The note of a run that was killed when the file had its name already goes along."""
    from fastdl.sinks.null import NullSink  # rare

    workspace = Workspace(NullSink(), existing=existing)
    folder, name = os.path.split(existing.path)
    # Most files have none, and no start-up is spent on them.
    if os.path.lexists(beside := os.path.join(folder, release_name(name))):  # noqa: PTH118
        from fastdl.engine.journal_file import Location  # rare
        from fastdl.engine.release import read_note

        found = os.fstat(existing.fd)
        note = read_note(Location(beside))
        if (
            note is not None
            and note.showing is not None
            and note.target == {"kind": "file", "ino": found.st_ino}
            and note.showing.target_bytes == found.st_size
            and note.stamp == found.st_mtime_ns
        ):
            workspace.earlier, workspace.whole = note, True
    return workspace


def _open_existing(target: str, name_hint: str | None) -> Existing | None:
    path = existing_file(target, name_hint=name_hint)
    if path is None:
        return None
    try:
        return Existing(path, os.open(path, _READING))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise sink_error(error, f"opening {path}") from None


def _open_damaged(path: str) -> Existing | None:
    """The damaged copy at *path*, None if it cannot be read as a file: all is fetched then."""
    try:
        found = Existing(path, os.open(path, _READING))
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(found.fd).st_mode):
        return found
    fs.close(found.fd)
    return None


def _nothing() -> None:
    """Nothing is left to be done."""


def _unlinking(note: Location) -> Callable[[], None]:
    """What removes *note*, also when its folder has been closed by the job."""
    assert note.folder_fd is not None
    try:
        kept = note._replace(folder_fd=os.dup(note.folder_fd))
    except OSError:  # no descriptor is left
        note.unlink()
        return _nothing

    def unlink() -> None:
        assert kept.folder_fd is not None
        kept.unlink()
        fs.close(kept.folder_fd)

    return unlink


def _make_durable(existing: Existing) -> Callable[[], None]:
    """Flush the file and its name; what its publication left next to it is removed.

    Returns what removes its note.
    """
    try:
        os.fsync(existing.fd)
        folder = fs.open_folder(os.path.dirname(existing.path) or ".")  # noqa: PTH120
        try:
            note = _tidy(existing, folder)
            fs.sync_folder(folder)
            return _nothing if note is None else _unlinking(note)
        finally:
            fs.close(folder)
    except OSError as error:
        raise sink_error(error, f"{existing.path} is complete, but cannot be flushed") from None


def _is_free(file: Location) -> bool:
    """Whether *file* is there, ours, and no job holds it."""
    from fastdl.errors import JournalError, SinkBusyError

    try:
        fd = file.open()
    except (JournalError, SinkBusyError):
        return False
    if fd is not None:
        fs.close(fd)
    return fd is not None


def _tidy(existing: Existing, folder: int) -> Location | None:
    """Remove the journal of a publication that was killed before it did so; returns its note."""
    from fastdl.engine.staging import SUFFIX, forget

    name = os.path.basename(existing.path)  # noqa: PTH119
    with contextlib.suppress(OSError):
        os.stat(f".{name}{SUFFIX}", dir_fd=folder, follow_symlinks=False)
        from pathlib import Path

        forget(Path(existing.path).with_name(f".{name}{SUFFIX}"))
    ours = {"kind": "file", "ino": os.fstat(existing.fd).st_ino}
    kept = None
    for beside in (journal_name(name), release_name(name)):
        try:
            os.stat(beside, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue
        from fastdl.engine.journal import read_target  # rare
        from fastdl.engine.journal_file import Location
        from fastdl.engine.release import read_note

        file = Location(beside, folder)
        note = read_note(file)
        if note is not None and note.target == ours:
            kept = file
        elif note is None and read_target(file) in (ours, None) and _is_free(file):
            file.remove()  # also where a power cut left it unreadable
    return kept
