# SPDX-License-Identifier: Apache-2.0
"""What do tests of virtual machines need of the machine that they run on?"""

from __future__ import annotations

from pathlib import Path


def enterable(folder: Path) -> Path:
    """*folder*, with the way to it opened for qemu, which runs as another user."""
    folder.chmod(0o755)
    for above in folder.parents:
        mode = above.stat().st_mode
        if not mode & 0o001:
            above.chmod(mode & 0o7777 | 0o011)
    return folder
