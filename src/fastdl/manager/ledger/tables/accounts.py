# SPDX-License-Identifier: Apache-2.0
"""Who may do something, and who is logged in."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, Index, String, Table, UniqueConstraint, false

from fastdl.manager.ledger.tables.base import UUID, id_, metadata, needs

account = Table(
    "account",
    metadata,
    id_(),
    needs("username", String(255)),
    needs("account", String(255)),
    needs("admin", Boolean),
    needs("enabled", Boolean),
    needs("locked", Boolean, false()),
    needs("password_hash", String(255)),
    Column("api_key", String(128), unique=True),
    Column("secret_key", String(255)),
    Column("firstname", String(255)),
    Column("lastname", String(255)),
    Column("email", String(255)),
    needs("created", Double),
    UniqueConstraint("username"),
)

replay = Table(
    "replay",
    metadata,
    Column("digest", String(64), primary_key=True),
    needs("until", Double),
    Index(None, "until"),
)
"""Signed requests that changed state (``auth.claim_of``), until they expire."""

session = Table(
    "session",
    metadata,
    Column("digest", String(64), primary_key=True),
    needs("user", UUID),
    needs("key_digest", String(64)),
    needs("opened", Double),
    needs("until", Double),
    Index(None, "user"),
)
"""Logins. *digest*, *key_digest*: SHA-256 of the cookie and of the key, so that the ledger opens
no session. *opened* and *until*: steady times."""
