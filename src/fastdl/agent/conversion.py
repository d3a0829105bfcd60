# SPDX-License-Identifier: Apache-2.0
"""What is done by others in the folder of a confined process? Images are converted there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from fastdl.agent.child_messages import Convert
from fastdl.agent.confine import Powers, confine
from fastdl.engine.cancel import Checked
from fastdl.engine.convert import convert
from fastdl.errors import FastdlError, InternalError
from fastdl.model.image import CONVERTIBLE, Format

_INSIDE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
"""The files whose conversion a process may request."""


def converted(asked: Convert, powers: Powers, stop: Checked) -> dict[str, Any] | None:
    """Run qemu-img on two files in a process's folder; returns its error or None.

    It runs with *powers*: in that folder, without network or target.
    """
    names = (asked.source, asked.target)
    try:
        if asked.format not in CONVERTIBLE or not all(map(_INSIDE.fullmatch, names)):
            raise InternalError("the download's process requested an invalid conversion")
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
