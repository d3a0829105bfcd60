# SPDX-License-Identifier: Apache-2.0
"""What is a pool to the rest of the agent? The contract, and the values that cross it.

A pool gets the name of a volume and what is known of its content, returns where the engine should
write it, gives it its name once it is verified, and reports later whether it is unchanged.
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
            raise UsageError(
                f"{self.name[:64]!a} cannot be the name of a volume: one has at most 128 letters "
                "(A to Z), digits, dots, underscores and hyphens, and begins with a letter or digit"
            )

    @property
    def file_name(self) -> str:
        """The volume as a file."""
        return f"{self.name}.iso" if self.iso and not self.name.endswith(".iso") else self.name


@dataclass(frozen=True, slots=True)
class Image:
    """What a probe found out about the bytes to come; sizes in bytes, None while unknown."""

    source_size: int | None = None
    virtual_size: int | None = None
    format: str = ""

    @property
    def disk_size(self) -> int | None:
        """The disk's size; that of the source if the source is the disk itself."""
        if self.virtual_size is not None or self.format.rpartition(".")[2] in COMPRESSED:
            return self.virtual_size
        return self.source_size


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the engine should write.

    ``target``         a path or an NBD URI
    ``target_format``  ``same`` or ``raw``
    ``beneath``        the folder that the target may not leave; None for devices
    """

    target: str
    target_format: str
    beneath: Path | None = None


class State(Enum):
    """What exists under a volume's name, compared with its marker."""

    ABSENT = "absent"
    LANDED = "landed"
    """Nothing yet, but the bytes are there, verified, and only lack their name."""
    INTACT = "intact"
    CHANGED = "changed"
    """We published it, and it has changed since."""
    FOREIGN = "foreign"
    """There is no proof that we put it there."""


@dataclass(frozen=True, slots=True)
class Found:
    """*why*: what is wrong with it, if anything; *ours*: it is what we published, even if changed
    since, and not something else under its name; *elsewhere*: another host, which keeps its own
    markers, may know more.
    """

    state: State
    why: str = ""
    ours: bool = True
    elsewhere: bool = False


def unchanged(marker: Marker) -> Found:
    """Nothing shows that the copy was written to; an audit may have found it damaged all the
    same."""
    return Found(State.CHANGED, marker.damage) if marker.damage else Found(State.INTACT)


class Pool(Protocol):
    """One primary storage pool. Methods block; errors are the classes of ``fastdl.errors``."""

    @property
    def id(self) -> str:
        """Stable, and the same on every host that reaches the same storage."""

    @property
    def markers(self) -> MarkerFolder:
        """The markers of its volumes, and their locks."""

    @property
    def holds_disks(self) -> bool:
        """Whether disks of virtual machines can be created in it."""

    @property
    def raw_disks(self) -> bool:
        """Whether those are devices, to which templates are copied; else files on top of them."""

    def info(self) -> PoolInfo:
        """The pool as reported in the inventory; ``error``: why it cannot be used now."""

    def images(self) -> Iterable[Path]:
        """The files and devices of its volumes, including those that others made."""

    def target(self, volume: Volume, marker: Marker | None) -> Target:
        """What users of *volume* would open or name."""

    def inspect(self, volume: Volume, marker: Marker | None) -> Found:
        """What exists under the volume's name now, compared with its *marker*."""

    def place(self, volume: Volume, image: Image) -> AbstractContextManager[Placement]:
        """The target for *volume*, created if the pool needs that; SinkSpaceError first.

        On a permanent error, what was created is removed again.
        """

    def void(self, volume: Volume, marker: Marker) -> bool:
        """Before a copy is written again: whether nothing of the old one is left from now on."""

    def landed(self, volume: Volume) -> Path:
        """Where the bytes are that have landed but lack their name."""

    def seal(self, volume: Volume, marker: Marker) -> Marker:
        """*marker* with what will prove that the landed bytes are unchanged."""

    def publish(self, volume: Volume, marker: Marker, *, replace: bool) -> str:
        """Give what has landed its name, if it lacks it, and notify the storage; the install path.

        *replace*: a copy of ours may be there. SinkRefusedError if something else is.
        """

    def install_path(self, volume: Volume, marker: Marker) -> str:
        """The volume's name in the pool."""

    def remove(self, volume: Volume, marker: Marker, *, used: Used | None) -> tuple[str, ...]:
        """Remove the volume; if it is in use, keep it and return the users that *used* reports."""

    def discard(self, volume: Volume) -> None:
        """Remove what an unfinished job of the volume left behind."""


class Used(Protocol):
    """Returns the users of a volume."""

    def __call__(self, target: Target) -> tuple[str, ...]: ...


def require_space(where: str, *, need: int | None, available: int) -> None:
    """SinkSpaceError when *need* bytes do not fit; an unknown need is left to the engine."""
    if need is not None and need > available:
        raise SinkSpaceError(
            f"{where} has {available} bytes left, the image needs {need}", phase="plan"
        )
