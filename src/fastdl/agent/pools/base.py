# SPDX-License-Identifier: Apache-2.0
"""What is a pool to the rest of the agent? The contract, and the values that cross it.

A pool is told the name of a volume and what is coming, says where the engine shall write
it, and remembers afterwards what was written and where it came from.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastdl.agent.pools.marker import Marker, MarkerFolder
from fastdl.errors import SinkSpaceError, UsageError
from fastdl.model.image import COMPRESSED
from fastdl.wire.messages import PoolInfo

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Volume:
    """The name of a copy in its pool. *iso* files keep their suffix, as CloudStack expects."""

    name: str
    iso: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name[:64]!a} cannot be the name of a volume")

    @property
    def file_name(self) -> str:
        """The volume as a file."""
        return f"{self.name}.iso" if self.iso and not self.name.endswith(".iso") else self.name


@dataclass(frozen=True, slots=True)
class Image:
    """What a probe says about the bytes to come; sizes in bytes, None while unknown."""

    source_size: int | None = None
    virtual_size: int | None = None
    format: str = ""

    @property
    def disk_size(self) -> int | None:
        """The disk's size; that of the source where it is the disk itself."""
        if self.virtual_size is not None or self.format.rpartition(".")[2] in COMPRESSED:
            return self.virtual_size
        return self.source_size


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the engine shall write.

    ``target``         a path or an NBD URI
    ``target_format``  ``same`` or ``raw``
    ``beneath``        the folder that the target may not leave; None for devices
    """

    target: str
    target_format: str
    beneath: Path | None = None


class Pool(Protocol):
    """One primary storage pool. Methods block; errors are the classes of ``fastdl.errors``."""

    @property
    def id(self) -> str:
        """Stable, and the same on every host that reaches the same storage."""

    @property
    def markers(self) -> MarkerFolder:
        """What is known of its volumes, and their locks."""

    def info(self) -> PoolInfo:
        """The pool as the inventory reports it; ``error`` says why it cannot be used now."""

    def present(self, volume: Volume, marker: Marker) -> bool:
        """Whether the volume is still what *marker* describes."""

    def place(self, volume: Volume, image: Image) -> AbstractContextManager[Placement]:
        """A place for *volume*, made for it where the pool needs that; SinkSpaceError first.

        On an error that no repetition heals, what was made is removed again.
        """

    def published(self, volume: Volume) -> str:
        """Tell the storage about the finished volume; its install path."""

    def remove(self, volume: Volume) -> bool:
        """Remove the volume; False when it was not there."""

    def discard(self, volume: Volume) -> None:
        """Remove what an unfinished job of the volume left."""


def require_space(where: str, *, need: int | None, available: int) -> None:
    """SinkSpaceError when *need* bytes do not fit; an unknown need is left to the engine."""
    if need is not None and need > available:
        raise SinkSpaceError(
            f"{where} has {available} bytes left, the image needs {need}", phase="plan"
        )
