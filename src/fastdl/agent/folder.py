# SPDX-License-Identifier: Apache-2.0
"""The folder of a confined process: who makes it, and what is done in it by others.

Images that have to be unpacked or converted take a detour over files there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastdl.agent.child_messages import Convert
from fastdl.agent.confine import Powers, confine
from fastdl.agent.pools.marker import staging_path
from fastdl.engine.cancel import Checked
from fastdl.engine.convert import convert
from fastdl.errors import FastdlError, InternalError
from fastdl.model.image import CONVERTIBLE, Format
from fastdl.sinks.base import sink_error

_INSIDE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
"""The files that a process may have converted."""


@contextlib.contextmanager
def of_child(parent: Path, target: str, ids: Sequence[int] | None) -> Iterator[str]:
    """A folder in *parent* for the user *ids* alone, which goes with the job.

    Its name is the target's, so that what a killed worker left goes with the next one.
    """
    made = staging_path(parent / Path(target).name)
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(mode=0o700)
        # Whoever else writes to the pool may have put a link in its place meanwhile.
        fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if ids is not None:
                os.fchown(fd, *ids)
        finally:
            os.close(fd)
    except OSError as exc:
        raise sink_error(exc, f"making {made} for the download's user") from None
    try:
        yield str(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def converted(asked: Convert, powers: Powers, stop: Checked) -> dict[str, Any] | None:
    """Have qemu-img convert between two files of a process's folder; the error it ends with.

    It runs with *powers*: in that folder, and without the network and the target.
    """
    names = (asked.source, asked.target)
    try:
        if asked.format not in CONVERTIBLE or not all(map(_INSIDE.fullmatch, names)):
            raise InternalError("the download's process asked for an odd conversion")
        source, target = map(Path, names)
        convert(
            source,
            target,
            Format(asked.format),
            stop,
            confine=partial(confine, powers),
            folder=Path(powers.folder or "."),
        )
    except FastdlError as exc:
        return exc.to_dict()
    return None
