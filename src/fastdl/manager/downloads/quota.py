# SPDX-License-Identifier: Apache-2.0
"""How large may a template become, and how much of primary storage may an account fill?

Sizes known since registration are checked when a copy is requested; the host checks again with its
own probe, before any data is transferred. CloudStack's settings, in its units (GiB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError
from fastdl.manager.ledger import accounts, copies
from fastdl.manager.settings import Settings
from fastdl.wire.messages import PoolType

GIB: Final = 1 << 30
SOURCE: Final = "max.template.iso.size"
VIRTUAL: Final = "storage.max.volume.size"
FACTOR: Final = "storage.overprovisioning.factor"
BYTES: Final = "max.account.primary.storage"
COPIES: Final = "max.account.template.copies"
_THICK: Final = frozenset({PoolType.LOGICAL, PoolType.BLOCK, PoolType.ISCSI})
"""Pools in which a volume takes all of its size at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """In bytes. *source*: of the file at the origin; *virtual*: of the disk; *why*: what sets
    the second one."""

    source: int
    virtual: int
    why: str

    def check(self, template: Row[Any]) -> None:
        """ApiParamError if *template*'s known sizes exceed them."""
        if template.size is not None and template.size > self.source:
            raise ApiParamError(
                f"{template.name} has {template.size} bytes at its origin, {SOURCE} allows "
                f"{self.source}"
            )
        disk = disk_of(template)
        if disk is not None and disk > self.virtual:
            raise ApiParamError(
                f"the disk of {template.name} has {disk} bytes, {self.why} allows {self.virtual}"
            )


def is_thick(pool: Row[Any]) -> bool:
    """Whether a volume in *pool* takes all of its size at once."""
    return pool.type in _THICK


def disk_of(template: Row[Any]) -> int | None:
    """Return the size of the template's disk, known since registration."""
    size: int | None = template.virtual_size
    return size if size is not None else template.size


def limits(settings: Settings, pool: Row[Any] | None, *, room: int | None = None) -> Limits:
    """Return what a template may become in *pool* (None: in any), where *room* bytes are left to
    the account that pays for it (None = any number)."""
    bounds = [(settings.whole(VIRTUAL) * GIB, VIRTUAL)]
    if pool is not None and pool.capacity:
        factor = 1.0 if pool.type in _THICK else settings.number(FACTOR)
        bounds.append((int(pool.capacity * factor), f"the capacity of pool {pool.name}"))
    if room is not None:
        bounds.append((max(0, room), BYTES))
    virtual, why = min(bounds)
    return Limits(source=settings.whole(SOURCE) * GIB, virtual=virtual, why=why)


async def charge(
    tx: AsyncConnection, settings: Settings, account: str, *, count: int, size: int
) -> int | None:
    """Return how many bytes are left to *account* in addition to *count* more copies of *size*
    each.

    ResourceLimitError where they do not fit; None = it may have any number. The account's row is
    locked, so that two concurrent requests cannot both use the last of it.
    """
    most, quota = settings.whole(COPIES), settings.whole(BYTES) * GIB
    await accounts.lock(tx, account)
    held, used = await copies.usage(tx, account)
    if most >= 0:
        accounts.require_room(account, "template copies", most=most, held=held, wanted=count)
    if quota < 0:
        return None
    accounts.require_room(
        account, "primary storage (bytes)", most=quota, held=used, wanted=count * size
    )
    return quota - used - count * size + size
