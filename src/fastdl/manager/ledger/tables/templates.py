# SPDX-License-Identifier: Apache-2.0
"""Templates, what is followed, and their copies in pools."""

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

template = Table(
    "template",
    metadata,
    id_(),
    needs("owner", UUID),
    needs("account", String(255)),
    needs("name", String(255)),
    needs("display_text", Text),
    needs("url", String(2048)),
    needs("iso", Boolean),
    needs("format", String(16)),
    needs("hypervisor", String(32)),
    Column("os_type", UUID),
    needs("arch", String(16), "x86_64"),
    needs("bootable", Boolean, text("true")),
    Column("checksum", String(300)),
    needs("public", Boolean),
    needs("featured", Boolean),
    needs("details", Text, "{}"),
    needs("flags", Text, "{}"),
    needs("sources", Text, "[]"),
    needs("origins", Text, "[]"),
    Column("size", BigInteger),
    Column("virtual_size", BigInteger),
    needs("validators", Text, "{}"),
    needs("digests", Text, "{}"),
    Column("drift", Text),
    needs("created", Double),
    Column("removed", Double),
    Index(None, "removed", "created", "id"),
)
"""*origins*: of every mirror that the probe found; a download holds a slot on each. *drift*: what
changed at the origin since registration, in a sentence; NULL = nothing seen."""

template_zone = Table(
    "template_zone",
    metadata,
    Column("template", UUID, ForeignKey("template.id"), primary_key=True),
    Column("zone", UUID, ForeignKey("zone.id"), primary_key=True),
    needs("created", Double),
    Column("removed", Double),
)

template_account = Table(
    "template_account",
    metadata,
    Column("template", UUID, ForeignKey("template.id", ondelete="CASCADE"), primary_key=True),
    Column("account", String(255), primary_key=True),
)
"""Accounts that a template which is not public was shared with."""

piece_list = Table(
    "piece_list",
    metadata,
    Column("template", UUID, ForeignKey("template.id", ondelete="CASCADE"), primary_key=True),
    needs("sha256", String(64)),
    needs("size", BigInteger),
    needs("length", BigInteger),
    needs("hashes", Text),
    needs("host", UUID),
    needs("refused", Text, "[]"),
    needs("created", Double),
)
"""The digests of a template's pieces, as *host*, which verified the whole file, has found them.
*sha256* and *size*: of that file; the list is none of a template that has another digest now.
*refused*: hosts whose list was another one."""

follow = Table(
    "follow",
    metadata,
    id_(),
    needs("product", String(2048)),
    needs("name", String(255)),
    needs("keep", Integer),
    needs("seen", String(64)),
    Column("error", Text),
    needs("due", Double, "0"),
    needs("created", Double),
)
"""A name whose template is always the newest version of *product*. *keep*: how many older versions
stay. *seen*: the newest version that was registered; an older one is refused. *error*: why the last
check failed. *due*: when the publisher is asked next, steady time."""

follow_version = Table(
    "follow_version",
    metadata,
    Column("template", UUID, ForeignKey("template.id", ondelete="CASCADE"), primary_key=True),
    Column("follow", UUID, ForeignKey("follow.id", ondelete="CASCADE"), nullable=False),
    needs("version", String(64)),
    needs("state", String(8)),
    Index(None, "follow"),
)
"""The templates of a follow; ``ledger.follows`` has their states."""

copy = Table(
    "copy",
    metadata,
    Column("pool", UUID, ForeignKey("pool.id", ondelete="CASCADE"), primary_key=True),
    Column("volume", String(128), primary_key=True),
    Column("template", UUID),
    Column("live", UUID),
    needs("zone", UUID, ""),
    needs("account", String(255), ""),
    needs("state", String(16)),
    needs("complete", Boolean, text("false")),
    needs("fence", BigInteger, "0"),
    needs("install_path", Text, ""),
    needs("size", BigInteger, "0"),
    needs("bytes", BigInteger, "0"),
    needs("result", Text, "{}"),
    needs("users", Text, "[]"),
    needs("note", Text, ""),
    needs("forced", Boolean, text("false")),
    needs("failures", Integer, "0"),
    needs("retry_at", Double, "0"),
    needs("created", Double),
    needs("updated", Double),
    UniqueConstraint("live", "pool"),
    Index("ix_copy_template", "template"),
    Index("ix_copy_due", "state", "retry_at"),
)
"""What is, or should be, in a pool; ``ledger.copies`` has its states. *live*: the template whose
copy it is, NULL if it belongs to none; *template* and *zone* as in its marker. *account*: whose
quota it counts against, empty = nobody's. *fence*: of the latest grant, over all jobs. *users* and
*note*: who was using it, and why it was kept, when its removal was last tried.
"""
