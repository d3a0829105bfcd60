# SPDX-License-Identifier: Apache-2.0
"""Where does a job keep what it unpacks or converts? In a hidden folder that goes with the job.

A killed job leaves its folder; the next job in the same place removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastdl import fs
from fastdl.sinks.base import sink_error

SUFFIX = ".fastdl-staging"


def path_beside(target: Path) -> Path:
    """Return the folder of the job that fills the file *target*."""
    return target.with_name(f".{target.name}{SUFFIX}")


@contextlib.contextmanager
def beside(target: Path, *, ids: Sequence[int] | None = None) -> Iterator[Path]:
    """A folder beside the file *target*, which is locked by the caller: nobody else has this one.

    Only the user *ids* (uid, gid; None: this one) may enter it. SinkError where none can be made.
    """
    made = path_beside(target)
    shutil.rmtree(made, ignore_errors=True)
    with _made(made, ids):
        yield made


@contextlib.contextmanager
def within(folder: Path, *, ids: Sequence[int] | None = None) -> Iterator[Path]:
    """A folder in *folder*, where many jobs have one; else as ``beside``.

    Each is locked while its job lives, which tells those of killed jobs.
    """
    made = folder / f".{secrets.token_hex(8)}{SUFFIX}"
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(folder):  # nobody sweeps what is not locked yet
                _sweep(folder)
                fcntl.flock(held.enter_context(_made(made, ids)), fcntl.LOCK_EX)
        except OSError as exc:
            raise sink_error(exc, f"making a folder in {folder}") from None
        yield made


@contextlib.contextmanager
def _made(made: Path, ids: Sequence[int] | None) -> Iterator[int]:
    """Make the folder; yield it open. It is removed at the end."""
    try:
        try:
            made.mkdir(mode=0o700)
            # Whoever else writes there may have put a link in its place meanwhile.
            fd = fs.open_folder(str(made), flags=os.O_NOFOLLOW)
        except OSError as exc:
            raise sink_error(exc, f"making {made}") from None
        try:
            if ids is not None:
                os.fchown(fd, *ids)
            yield fd
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = fs.open_folder(str(folder))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sweep(folder: Path) -> None:
    """Remove what killed jobs left in *folder*."""
    for left in folder.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):
            fd = fs.open_folder(str(left), flags=os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(fd)
