# SPDX-License-Identifier: Apache-2.0
"""A host's inventory: its pools and its keystore, as it reports them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastdl.wire.limits import Count, Id, Items, Line, Name, Text
from fastdl.wire.machines import MachineInfo


class PoolType(StrEnum):
    """Primary storage as CloudStack names it; ``Block`` is a device named by configuration."""

    FILESYSTEM = "Filesystem"
    NETWORK_FILESYSTEM = "NetworkFilesystem"
    SHARED_MOUNT_POINT = "SharedMountPoint"
    LOGICAL = "CLVM"
    ISCSI = "Iscsi"
    RBD = "RBD"
    BLOCK = "Block"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInfo:
    """One primary storage pool the host can write to.

    *id* is stable and the same on every host that reaches the same storage; a pool that only
    this host can reach has *shared* false and an id no other host uses.
    """

    id: Id
    name: Name
    type: PoolType
    shared: bool = False
    path: Line = ""
    capacity: Count = 0
    available: Count = 0
    error: Line | None = None
    """Why it cannot be used now; such a pool gets no downloads."""
    proof: Annotated[str, Text(64)] | None = None
    """What only hosts that read the storage know: two hosts with the same one reach the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """One trusted entry found in the host's keystore. *sha256*: of the DER, lower-case hex."""

    alias: Name
    sha256: Annotated[str, Text(64)]
    subject: Line = ""
    issuer: Line = ""
    not_before: Annotated[str, Text(40)] = ""
    """ISO 8601, UTC."""
    not_after: Annotated[str, Text(40)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What the host has now; always whole, never a difference.

    *certificates* are the entries really found in the keystore file (trusted ones only; the
    reserved aliases ``cloud`` and ``cloudca*`` are left out); a bundle uploaded under ALIAS is
    reported as the agent stores it: ``ALIAS`` for its first certificate, ``ALIAS#2``… for the rest
    (``#`` is outside the grammar of aliases, so nobody's own alias can be meant).
    """

    pools: Annotated[tuple[PoolInfo, ...], Items(256)] = ()
    certificates: Annotated[tuple[CertificateInfo, ...], Items(4096)] = ()
    keystore_error: Line | None = None
    """Why *certificates* could not be read; they are then unknown, not empty."""
    keystore_revision: Count = 0
    """Of the keystore as it was read: each reading has a higher one than the last, over restarts
    too. Messages may overtake each other on their way; the highest revision counts. 0 = the host
    does not number them."""
    machine_pools: Annotated[tuple[Id, ...], Items(256)] = ()
    """The pools in which virtual machines of this host can have their disks; none: it runs none."""
    machines: Annotated[tuple[MachineInfo, ...], Items(4096)] = ()
