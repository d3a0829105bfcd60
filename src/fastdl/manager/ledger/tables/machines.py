# SPDX-License-Identifier: Apache-2.0
"""Virtual machines."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    false,
)

from fastdl.manager.ledger.tables.base import UUID, id_, metadata, needs

vm = Table(
    "vm",
    metadata,
    id_(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    needs("owner", UUID),
    needs("account", String(255)),
    needs("name", String(63)),
    needs("display_name", String(255)),
    needs("template", UUID),
    needs("iso", Boolean),
    needs("host", UUID),
    needs("pool", UUID),
    needs("disk", String(128)),
    needs("disk_size", BigInteger, "0"),
    needs("processors", Integer),
    needs("memory", BigInteger),
    needs("controller", String(16), ""),
    needs("accelerated", Boolean, false()),
    needs("state", String(16)),
    needs("goal", String(16)),
    needs("fence", BigInteger, "0"),
    needs("deployed", Boolean, false()),
    needs("fetches", Integer, "0"),
    Column("download", UUID),
    Column("host_job", UUID),
    Column("api_job", UUID),
    needs("note", Text, ""),
    needs("retry_at", Double, "0"),
    needs("created", Double),
    needs("updated", Double),
    Column("removed", Double),
    Index("ix_vm_zone", "zone", "removed"),
    Index("ix_vm_host", "host", "removed"),
    Index("ix_vm_host_job", "host_job"),
)
"""Virtual machines; ``ledger.vms`` has their states. *disk*: the volume in *pool* that is its root
disk. *goal*: the state after its order; *fence*: of the latest one. *download*: the job that brings
its template, and *fetches*: how many there were; *host_job*: the order itself. *api_job*: who waits
for it.
"""
