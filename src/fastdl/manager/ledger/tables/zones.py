# SPDX-License-Identifier: Apache-2.0
"""Zones, and the hosts and pools in them."""

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
    UniqueConstraint,
    text,
)

from fastdl.manager.ledger.tables.base import UUID, id_, metadata, needs

zone = Table(
    "zone",
    metadata,
    id_(),
    needs("name", String(255)),
    needs("enabled", Boolean),
    needs("created", Double),
    needs("network", Text, "{}"),
    UniqueConstraint("name"),
)

token = Table(
    "token",
    metadata,
    id_(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    needs("cluster", String(255)),
    needs("secret_hash", String(64)),
    needs("created", Double),
    needs("expires", Double),
    Column("replaces", UUID, ForeignKey("host.id", ondelete="CASCADE")),
    Column("key_hash", String(64)),
    Column("host", UUID, ForeignKey("host.id", ondelete="CASCADE")),
)
"""Enrolment tokens. *replaces*: the host that the machine which uses it becomes. *key_hash*,
*host*: of the key and the host that used it; the same key may repeat its request.
"""

host = Table(
    "host",
    metadata,
    id_(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    needs("cluster", String(255)),
    needs("name", String(255)),
    needs("address", String(255), ""),
    needs("state", String(16)),
    needs("resource_state", String(24), "Enabled"),
    needs("tags", Text, "[]"),
    needs("renamed", Boolean, text("false")),
    needs("version", String(255), ""),
    needs("arch", String(16), ""),
    needs("kinds", Text, "[]"),
    needs("max_downloads", Integer, "4"),
    needs("machine_pools", Text, "[]"),
    needs("rev", BigInteger, "0"),
    needs("key_hash", String(64)),
    Column("ca_sha256", String(64)),
    Column("certified_until", Double),
    needs("gateway", String(64), ""),
    needs("changed", Double),
    needs("created", Double),
    needs("clock_skew", Double, "0"),
    needs("keystore", Text, "{}"),
    Column("keystore_error", Text),
    needs("keystore_revision", BigInteger, "0"),
    Index(None, "zone", "name"),
)
"""*keystore*: alias (case-folded) → fingerprint and dates, as last reported by the host.
*renamed*: *name* was given by an operator, not by the host. *key_hash*: of the one key that proves
it is this host. *ca_sha256*: the manager's CA that it trusts and that issued its certificate.
*gateway*: the manager that it is, or was last, connected to.
"""

pool = Table(
    "pool",
    metadata,
    id_(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    needs("cluster", String(255)),
    needs("name", String(255)),
    needs("type", String(32)),
    needs("shared", Boolean),
    needs("path", Text, ""),
    needs("capacity", BigInteger, "0"),
    needs("available", BigInteger, "0"),
    Column("owner", UUID),
    Column("proof", String(64)),
    needs("open", Boolean, text("false")),
    needs("created", Double),
    Index(None, "zone"),
)
"""*owner*: the host that decides name, type and path. *proof*: what only hosts that read the
storage know. *open*: an operator lets hosts of the zone join it without a proof.
"""

host_pool = Table(
    "host_pool",
    metadata,
    Column("host", UUID, ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    Column("pool", UUID, ForeignKey("pool.id", ondelete="CASCADE"), primary_key=True),
    Column("error", Text),
    needs("accepted", Boolean),
    Index(None, "pool"),
)
"""*error*: why the host cannot use the pool now. *accepted* false: it claims to reach a pool that
belongs to another host; that causes an event and nothing else.
"""
