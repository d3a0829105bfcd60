# SPDX-License-Identifier: Apache-2.0
"""What do tests of virtual machines need of the machine that they run on?"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "fastdl-machines-"


def was_of_a_dead_run(domain: Path) -> bool:
    """Whether the disks that a domain's description names lay in such a folder, gone since."""
    with contextlib.suppress(OSError):
        folders = set(re.findall(rf"/var/tmp/{_PREFIX}\w+", domain.read_text()))
        return bool(folders) and not any(Path(folder).exists() for folder in folders)
    return False


@contextlib.contextmanager
def enterable() -> Iterator[Path]:
    """A folder that qemu, which runs as another user, can enter; removed at the end.

    Not below pytest's own: any other run of pytest closes the way to it again.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
