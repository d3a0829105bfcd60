# SPDX-License-Identifier: Apache-2.0
"""What do tests of virtual machines need of the machine that they run on?"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def enterable() -> Iterator[Path]:
    """A folder that qemu, which runs as another user, can enter; removed at the end.

    Not below pytest's own: any other run of pytest closes the way to it again.
    """
    folder = Path(tempfile.mkdtemp(prefix="fastdl-machines-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
