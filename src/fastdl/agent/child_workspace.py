# SPDX-License-Identifier: Apache-2.0
"""How does a confined process work in a workspace that another process opened?

It has the opened descriptors, a shared journal, and its own folder. Whatever it has no right to do
is requested from the other process, which finally publishes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from fastdl.engine.cancel import Checked
from fastdl.engine.journal_file import JournalFile, SharedFile
from fastdl.engine.workspace import Workspace
from fastdl.sinks.base import sink_error

if TYPE_CHECKING:
    from pathlib import Path

    from fastdl.engine.staging import Staging
    from fastdl.model.image import Format

_STAGED = "staged"

Send = Callable[[dict[str, Any]], None]
"""Sends one message of ``child_messages``."""


class ChildWorkspace(Workspace):
    """What *opened* is to the process that may only work in it.

    *journal* and *note*: shared by the process that opened it, or None.
    """

    def __init__(
        self, opened: Workspace, journal: SharedFile | None, note: SharedFile | None
    ) -> None:
        super().__init__(opened.sink, existing=opened.existing)
        self.earlier, self.whole = opened.earlier, opened.whole
        self.damaged = opened.damaged
        self._shared = journal
        self._shared_note = note
        self._send: Send | None = None
        self._request: Send | None = None

    def connect(self, *, send: Send, request: Send) -> None:
        """Set the channel to the other process; *request* waits until its message was processed."""
        self._send = send
        self._request = request

    @property
    def journal(self) -> JournalFile | None:
        """The shared one."""
        return self._shared

    @property
    def note_file(self) -> JournalFile | None:
        """The shared one."""
        return self._shared_note

    def begin(self, size: int | None, *, sparse: bool) -> None:
        """Take possession of the target, after telling the other process."""
        assert self._send is not None
        self._send({"begun": size})
        super().begin(size, sparse=sparse)

    @contextmanager
    def staging(self, *, ids: Sequence[int] | None = None, key: str = "") -> Iterator[Staging]:
        """A folder inside the one that this process works in, and with what that kept in it."""
        assert ids is None
        assert not key
        import shutil
        from pathlib import Path

        from fastdl.engine.staging import Staging  # only where something is unpacked or staged

        # Relative: this user may have no access through the parent folders.
        staging = Staging(Path(_STAGED))
        try:
            staging.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise sink_error(error, f"making {staging.path}") from None
        try:
            yield staging
        finally:
            if not staging.keep:
                shutil.rmtree(staging.path, ignore_errors=True)

    @property
    def spooled(self) -> bool:
        """In this process's own folder."""
        return self._spool is not None or os.path.lexists(_STAGED)

    def drop_staging(self, key: str = "") -> None:
        """Nothing is left: the folder that this process works in goes with a job that is done."""

    def convert(self, source: Path, target: Path, fmt: Format, cancel: Checked) -> None:
        """Have a third process convert it, without network and without the target."""
        del cancel  # the other process learns of it as well
        assert self._request is not None
        self._request(
            {"convert": {"source": str(source), "target": str(target), "format": str(fmt)}}
        )

    def publish(self, size: int) -> NoReturn:
        """Never called in this process."""
        raise AssertionError("the process that opened the target publishes it")
