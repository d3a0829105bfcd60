# SPDX-License-Identifier: Apache-2.0
"""Who may open /dev/kvm, on machines without udev?"""

from __future__ import annotations

import contextlib
import grp
import os
from pathlib import Path
from typing import Final

_KVM: Final = Path("/dev/kvm")


def let_group_open() -> None:
    """Do with /dev/kvm what udev does, where none runs and only root may open it.

    libvirt, which finds KVM when QEMU tells and misses it when it looks itself, would ask QEMU anew
    at each request, for seconds.
    """
    with contextlib.suppress(OSError, KeyError):
        if _KVM.stat().st_gid == 0:
            os.chown(_KVM, -1, grp.getgrnam("kvm").gr_gid)
            _KVM.chmod(0o660)
