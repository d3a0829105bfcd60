# SPDX-License-Identifier: Apache-2.0
"""Files of the state folder that nobody else may read."""

from __future__ import annotations

from pathlib import Path

from fastdl import fs


def write_private(path: Path, data: str | bytes) -> None:
    """Write *path* with mode 0600, atomically; durable when this returns."""
    fs.replace_file(path, data.encode() if isinstance(data, str) else data)
