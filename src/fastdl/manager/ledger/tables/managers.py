# SPDX-License-Identifier: Apache-2.0
"""The managers of the ledger, and what they agreed on."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, String, Table

from fastdl.manager.ledger.tables.base import metadata, needs

setting = Table(
    "setting",
    metadata,
    Column("name", String(255), primary_key=True),
    needs("value", String(4096)),
)

manager = Table(
    "manager",
    metadata,
    Column("name", String(64), primary_key=True),
    needs("address", String(255)),
    needs("version", String(255)),
    needs("seen", Double),
)
"""The managers of this ledger. *seen*: when it was last alive, by the database's clock."""

lease = Table(
    "lease",
    metadata,
    Column("name", String(64), primary_key=True),
    needs("owner", String(64)),
    needs("fence", BigInteger),
    needs("until", Double),
)
