# SPDX-License-Identifier: Apache-2.0
"""Which pools does this host have? Folders and devices by configuration, the rest by libvirt."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastdl.agent.pools.base import Found, Image, Placement, Pool, State, Volume
from fastdl.agent.pools.device import DevicePool
from fastdl.agent.pools.directory import DirectoryPool
from fastdl.agent.pools.folder import Memory
from fastdl.agent.pools.marker import AS_IT_IS, Marker, MarkerFolder
from fastdl.agent.pools.usage import Usage
from fastdl.errors import UsageError
from fastdl.wire.messages import PoolType

__all__ = [
    "AS_IT_IS",
    "DevicePool",
    "DirectoryPool",
    "Found",
    "Image",
    "Marker",
    "MarkerFolder",
    "Memory",
    "Placement",
    "Pool",
    "State",
    "Usage",
    "Volume",
    "configured",
]

_SHARED: Final = "shared:"


def configured(specs: Sequence[str], *, host_id: str, state: Path) -> list[Pool]:
    """The pools of ``--pool NAME=DIRECTORY_OR_DEVICE``; UsageError for anything else.

    ``NAME=shared:DIRECTORY`` states what a file system such as virtiofs or Lustre does not show:
    that other hosts reach the same folder (CloudStack's SharedMountPoint).
    """
    pools: list[Pool] = []
    memory = Memory(state)
    names: set[str] = set()
    for spec in specs:
        name, equals, text = spec.partition("=")
        shared = text.startswith(_SHARED)
        path = Path(text.removeprefix(_SHARED))
        if not equals or not name or not path.is_absolute():
            raise UsageError(
                f"--pool {spec}: write NAME=/absolute/path or NAME=shared:/absolute/path"
            )
        if name in names:
            raise UsageError(f"--pool {spec}: a pool of this name already exists")
        names.add(name)
        if shared:
            kind = PoolType.SHARED_MOUNT_POINT
            pools.append(DirectoryPool(path, name=name, kind=kind, memory=memory))
        elif _is_device(path):
            pools.append(DevicePool(path, name=name, host_id=host_id, state=state))
        else:
            pools.append(DirectoryPool(path, name=name, memory=memory))
    return pools


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False
