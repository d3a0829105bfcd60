# SPDX-License-Identifier: Apache-2.0
"""Certificates, and their state on each host."""

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

cert = Table(
    "cert",
    metadata,
    id_(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    needs("alias", String(255)),
    Column("live_alias", String(255)),
    needs("hypervisor", String(32)),
    needs("pem", Text),
    needs("sha256", String(64)),
    needs("not_after", Double),
    needs("revoked", Boolean, text("false")),
    needs("warned", Integer, "0"),
    needs("created", Double),
    Column("removed", Double),
    UniqueConstraint("zone", "live_alias"),
)
"""*live_alias*: the folded alias, NULL once deleted. *revoked*: zone-wide."""

cert_host = Table(
    "cert_host",
    metadata,
    Column("cert", UUID, ForeignKey("cert.id", ondelete="CASCADE"), primary_key=True),
    Column("host", UUID, ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    needs("want", String(8)),
    needs("want_rev", BigInteger, "1"),
    needs("done_rev", BigInteger, "0"),
    needs("status", String(10)),
    needs("detail", Text, ""),
    needs("failures", Integer, "0"),
    needs("retry_at", Double, "0"),
    Index(None, "host"),
)
"""*want*: present or absent, at revision *want_rev*; *done_rev*: the last revision whose
outcome (*status*, *detail*) is known."""
