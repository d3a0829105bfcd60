# SPDX-License-Identifier: Apache-2.0
"""What is a pool to the rest of the agent? The contract, and the values that cross it.

A pool is told the name of a volume and what is coming, says where the engine shall write
it, gives it its name when it is proven, and tells later whether it is still what it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from fastdl.agent.pools.marker import VOLUME_NAME, Marker, MarkerFolder
from fastdl.agent.pools.usage import Target
from fastdl.errors import SinkSpaceError, UsageError
from fastdl.model.image import COMPRESSED
from fastdl.wire.messages import PoolInfo


@dataclass(frozen=True, slots=True)
class Volume:
    """The name of a copy in its pool. *iso* files keep their suffix, as CloudStack expects."""

    name: str
    iso: bool = False

    def __post_init__(self) -> None:
        if not VOLUME_NAME.fullmatch(self.name):
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


class State(Enum):
    """What lies under a volume's name, compared with its marker."""

    ABSENT = "absent"
    LANDED = "landed"
    """Nothing yet, but the bytes are there, proven, and only lack their name."""
    INTACT = "intact"
    CHANGED = "changed"
    """It was published by us and is not what it was then."""
    FOREIGN = "foreign"
    """Nobody can show that we put it there."""


@dataclass(frozen=True, slots=True)
class Found:
    """*why*: what is wrong with it, where something is; *ours*: it is what we published, however
    it was changed since, and not something else under its name; *elsewhere*: another host, which
    keeps markers of its own, may know more."""

    state: State
    why: str = ""
    ours: bool = True
    elsewhere: bool = False


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

    def images(self) -> Iterable[Path]:
        """The files and devices of its volumes, whoever made them."""

    def target(self, volume: Volume, marker: Marker | None) -> Target:
        """What users of *volume* would use."""

    def inspect(self, volume: Volume, marker: Marker | None) -> Found:
        """What lies under the volume's name now, compared with its *marker*."""

    def place(self, volume: Volume, image: Image) -> AbstractContextManager[Placement]:
        """A place for *volume*, made for it where the pool needs that; SinkSpaceError first.

        On a permanent error, what was created is removed again.
        """

    def void(self, volume: Volume, marker: Marker) -> bool:
        """Before a copy is written anew: whether nothing of the old one is left from now on."""

    def landed(self, volume: Volume) -> Path:
        """Where the bytes are that have landed and lack their name."""

    def seal(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* with what proves later that the bytes which have landed are still there."""

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Give what has landed its name, if it lacks it, and tell the storage; the install path.

        *replace*: a copy of ours may lie there. SinkRefusedError where somebody else's does.
        """

    def install_path(self, volume: Volume, marker: Marker) -> str:
        """What the volume is called in the pool."""

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Remove the volume; who uses it, as *used* tells, where it was left for that."""

    def discard(self, volume: Volume) -> None:
        """Remove what an unfinished job of the volume left."""


class Used(Protocol):
    """Asks who uses a volume."""

    def __call__(self, target: Target) -> tuple[str, ...]: ...


def require_space(where: str, *, need: int | None, available: int) -> None:
    """SinkSpaceError when *need* bytes do not fit; an unknown need is left to the engine."""
    if need is not None and need > available:
        raise SinkSpaceError(
            f"{where} has {available} bytes left, the image needs {need}", phase="plan"
        )
