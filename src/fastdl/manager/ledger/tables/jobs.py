# SPDX-License-Identifier: Apache-2.0
"""Work on hosts, who asked for it, and what happened."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    text,
)

from fastdl.manager.ledger.tables.base import UUID, id_, metadata, needs

_HELD = text("host IS NOT NULL")

job = Table(
    "job",
    metadata,
    id_(),
    needs("kind", String(16)),
    needs("state", String(16)),
    Column("single", String(255), unique=True),
    needs("zone", UUID),
    Column("template", UUID),
    Column("pool", UUID),
    Column("volume", String(128)),
    Column("host", UUID),
    needs("lane", String(255), ""),
    needs("slots", Text, "[]"),
    needs("rank", Integer, "10"),
    needs("waiting", Boolean),
    needs("not_before", Double, "0"),
    needs("fence", BigInteger, "0"),
    needs("attempt", Integer, "0"),
    needs("tried", Text, "[]"),
    needs("args", Text),
    needs("context", Text, "{}"),
    Column("failure", Text),
    Column("result", Text),
    needs("percent", Integer, "0"),
    needs("created", Double),
    needs("updated", Double),
    Column("ended", Double),
    Index("ix_job_queue", "waiting", "lane", "rank", "created", "id"),
    Index("ix_job_held", "state", sqlite_where=_HELD, postgresql_where=_HELD),
    Index("ix_job_host", "host", "state"),
    Index("ix_job_place", "template", "pool", "created"),
    Index("ix_job_ended", "ended"),
)
"""*single* is unique while the job lives and NULL afterwards: one live download per volume of a
pool, one keystore update per host. *lane*: the origin whose limit paces it; *slots*: the (kind,
key) pairs it holds while it runs. *waiting*: QUEUED or RETRY_WAIT.
"""

attempt = Table(
    "attempt",
    metadata,
    Column("job", UUID, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", BigInteger, primary_key=True),
    needs("host", UUID),
    needs("started", Double),
    Column("ended", Double),
    Column("outcome", Text),
)

_IN_USE: Final = text("active > 0 OR cap IS NOT NULL")
slot = Table(
    "slot",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("key", String(255), primary_key=True),
    needs("active", Integer, "0"),
    Column("cap", Integer),
    CheckConstraint("active >= 0", name="active"),
    Index("ix_slot_in_use", "kind", "key", sqlite_where=_IN_USE, postgresql_where=_IN_USE),
)
"""Counting semaphores: kind is origin, host or pool. *cap*: a temporary lower limit."""

api_job = Table(
    "api_job",
    metadata,
    id_(),
    needs("owner", UUID),
    needs("command", String(255)),
    needs("status", Integer),
    needs("result", Text, "{}"),
    Column("instance_type", String(64)),
    Column("instance", UUID),
    needs("created", Double),
    Column("completed", Double),
    Index(None, "created"),
)

api_job_part = Table(
    "api_job_part",
    metadata,
    Column("api_job", UUID, ForeignKey("api_job.id", ondelete="CASCADE"), primary_key=True),
    Column("job", UUID, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Index(None, "job"),
)

event = Table(
    "event",
    metadata,
    id_(),
    needs("type", String(64)),
    needs("level", String(8)),
    needs("state", String(16), "Completed"),
    needs("description", Text),
    needs("account", String(255), "system"),
    Column("resource", UUID),
    Column("username", String(255)),
    Column("address", String(64)),
    needs("created", Double),
    Index(None, "created"),
)
