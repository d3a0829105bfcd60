# SPDX-License-Identifier: Apache-2.0
"""The ledger's tables and columns. ``migrations/`` creates them; a test compares the two.

Conventions: ids are UUID strings made by us; times are seconds since 1970 as doubles; lists
and small documents are JSON text. A compare-and-set is ``UPDATE … WHERE id AND fence`` and
its row count: no RETURNING, no SKIP LOCKED, so that the statements run on every engine.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

UUID: Final = String(40)


def _id() -> Column[Any]:
    return Column("id", UUID, primary_key=True)


def _needs(name: str, kind: Any, default: Any = None) -> Column[Any]:
    return Column(name, kind, nullable=False, server_default=default)


setting = Table(
    "setting",
    metadata,
    Column("name", String(255), primary_key=True),
    _needs("value", String(4096)),
)

account = Table(
    "account",
    metadata,
    _id(),
    _needs("username", String(255)),
    _needs("account", String(255)),
    _needs("admin", Boolean),
    _needs("enabled", Boolean),
    _needs("locked", Boolean, false()),
    _needs("password_hash", String(255)),
    Column("api_key", String(128), unique=True),
    Column("secret_key", String(255)),
    Column("firstname", String(255)),
    Column("lastname", String(255)),
    Column("email", String(255)),
    _needs("created", Double),
    UniqueConstraint("username"),
)

replay = Table(
    "replay",
    metadata,
    Column("digest", String(64), primary_key=True),
    _needs("until", Double),
    Index(None, "until"),
)
"""Signed requests that changed state (``auth.claim_of``), until they expire."""

zone = Table(
    "zone",
    metadata,
    _id(),
    _needs("name", String(255)),
    _needs("enabled", Boolean),
    _needs("created", Double),
    _needs("network", Text, "{}"),
    UniqueConstraint("name"),
)

token = Table(
    "token",
    metadata,
    _id(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    _needs("cluster", String(255)),
    _needs("secret_hash", String(64)),
    _needs("created", Double),
    _needs("expires", Double),
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
    _id(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    _needs("cluster", String(255)),
    _needs("name", String(255)),
    _needs("address", String(255), ""),
    _needs("state", String(16)),
    _needs("resource_state", String(24), "Enabled"),
    _needs("tags", Text, "[]"),
    _needs("renamed", Boolean, text("false")),
    _needs("version", String(255), ""),
    _needs("arch", String(16), ""),
    _needs("kinds", Text, "[]"),
    _needs("max_downloads", Integer, "4"),
    _needs("machine_pools", Text, "[]"),
    _needs("rev", BigInteger, "0"),
    _needs("key_hash", String(64)),
    Column("ca_sha256", String(64)),
    Column("certified_until", Double),
    _needs("gateway", String(64), ""),
    _needs("changed", Double),
    _needs("created", Double),
    _needs("clock_skew", Double, "0"),
    _needs("keystore", Text, "{}"),
    Column("keystore_error", Text),
    _needs("keystore_revision", BigInteger, "0"),
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
    _id(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    _needs("cluster", String(255)),
    _needs("name", String(255)),
    _needs("type", String(32)),
    _needs("shared", Boolean),
    _needs("path", Text, ""),
    _needs("capacity", BigInteger, "0"),
    _needs("available", BigInteger, "0"),
    Column("owner", UUID),
    Column("proof", String(64)),
    _needs("open", Boolean, text("false")),
    _needs("created", Double),
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
    _needs("accepted", Boolean),
    Index(None, "pool"),
)
"""*error*: why the host cannot use the pool now. *accepted* false: it claims to reach a pool that
belongs to another host; that causes an event and nothing else.
"""

template = Table(
    "template",
    metadata,
    _id(),
    _needs("owner", UUID),
    _needs("account", String(255)),
    _needs("name", String(255)),
    _needs("display_text", Text),
    _needs("url", String(2048)),
    _needs("iso", Boolean),
    _needs("format", String(16)),
    _needs("hypervisor", String(32)),
    Column("os_type", UUID),
    _needs("arch", String(16), "x86_64"),
    _needs("bootable", Boolean, text("true")),
    Column("checksum", String(300)),
    _needs("public", Boolean),
    _needs("featured", Boolean),
    _needs("details", Text, "{}"),
    _needs("flags", Text, "{}"),
    _needs("sources", Text, "[]"),
    _needs("origins", Text, "[]"),
    Column("size", BigInteger),
    Column("virtual_size", BigInteger),
    _needs("validators", Text, "{}"),
    _needs("digests", Text, "{}"),
    Column("drift", Text),
    _needs("created", Double),
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
    _needs("created", Double),
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
    _needs("sha256", String(64)),
    _needs("size", BigInteger),
    _needs("length", BigInteger),
    _needs("hashes", Text),
    _needs("host", UUID),
    _needs("refused", Text, "[]"),
    _needs("created", Double),
)
"""The digests of a template's pieces, as *host*, which verified the whole file, has found them.
*sha256* and *size*: of that file; the list is none of a template that has another digest now.
*refused*: hosts whose list was another one."""

follow = Table(
    "follow",
    metadata,
    _id(),
    _needs("product", String(2048)),
    _needs("name", String(255)),
    _needs("keep", Integer),
    _needs("seen", String(64)),
    Column("error", Text),
    _needs("due", Double, "0"),
    _needs("created", Double),
)
"""A name whose template is always the newest version of *product*. *keep*: how many older versions
stay. *seen*: the newest version that was registered; an older one is refused. *error*: why the last
check failed. *due*: when the publisher is asked next, steady time."""

follow_version = Table(
    "follow_version",
    metadata,
    Column("template", UUID, ForeignKey("template.id", ondelete="CASCADE"), primary_key=True),
    Column("follow", UUID, ForeignKey("follow.id", ondelete="CASCADE"), nullable=False),
    _needs("version", String(64)),
    _needs("state", String(8)),
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
    _needs("zone", UUID, ""),
    _needs("account", String(255), ""),
    _needs("state", String(16)),
    _needs("complete", Boolean, text("false")),
    _needs("fence", BigInteger, "0"),
    _needs("install_path", Text, ""),
    _needs("size", BigInteger, "0"),
    _needs("bytes", BigInteger, "0"),
    _needs("result", Text, "{}"),
    _needs("users", Text, "[]"),
    _needs("note", Text, ""),
    _needs("forced", Boolean, text("false")),
    _needs("failures", Integer, "0"),
    _needs("retry_at", Double, "0"),
    _needs("created", Double),
    _needs("updated", Double),
    UniqueConstraint("live", "pool"),
    Index("ix_copy_template", "template"),
    Index("ix_copy_due", "state", "retry_at"),
)
"""What is, or should be, in a pool; ``ledger.copies`` has its states. *live*: the template whose
copy it is, NULL if it belongs to none; *template* and *zone* as in its marker. *account*: whose
quota it counts against, empty = nobody's. *fence*: of the latest grant, over all jobs. *users* and
*note*: who was using it, and why it was kept, when its removal was last tried.
"""

_HELD = text("host IS NOT NULL")

job = Table(
    "job",
    metadata,
    _id(),
    _needs("kind", String(16)),
    _needs("state", String(16)),
    Column("single", String(255), unique=True),
    _needs("zone", UUID),
    Column("template", UUID),
    Column("pool", UUID),
    Column("volume", String(128)),
    Column("host", UUID),
    _needs("lane", String(255), ""),
    _needs("slots", Text, "[]"),
    _needs("rank", Integer, "10"),
    _needs("waiting", Boolean),
    _needs("not_before", Double, "0"),
    _needs("fence", BigInteger, "0"),
    _needs("attempt", Integer, "0"),
    _needs("tried", Text, "[]"),
    _needs("args", Text),
    _needs("context", Text, "{}"),
    Column("failure", Text),
    Column("result", Text),
    _needs("percent", Integer, "0"),
    _needs("created", Double),
    _needs("updated", Double),
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
    _needs("host", UUID),
    _needs("started", Double),
    Column("ended", Double),
    Column("outcome", Text),
)

_IN_USE: Final = text("active > 0 OR cap IS NOT NULL")
slot = Table(
    "slot",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("key", String(255), primary_key=True),
    _needs("active", Integer, "0"),
    Column("cap", Integer),
    CheckConstraint("active >= 0", name="active"),
    Index("ix_slot_in_use", "kind", "key", sqlite_where=_IN_USE, postgresql_where=_IN_USE),
)
"""Counting semaphores: kind is origin, host or pool. *cap*: a temporary lower limit."""

cert = Table(
    "cert",
    metadata,
    _id(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    _needs("alias", String(255)),
    Column("live_alias", String(255)),
    _needs("hypervisor", String(32)),
    _needs("pem", Text),
    _needs("sha256", String(64)),
    _needs("not_after", Double),
    _needs("revoked", Boolean, text("false")),
    _needs("warned", Integer, "0"),
    _needs("created", Double),
    Column("removed", Double),
    UniqueConstraint("zone", "live_alias"),
)
"""*live_alias*: the folded alias, NULL once deleted. *revoked*: zone-wide."""

cert_host = Table(
    "cert_host",
    metadata,
    Column("cert", UUID, ForeignKey("cert.id", ondelete="CASCADE"), primary_key=True),
    Column("host", UUID, ForeignKey("host.id", ondelete="CASCADE"), primary_key=True),
    _needs("want", String(8)),
    _needs("want_rev", BigInteger, "1"),
    _needs("done_rev", BigInteger, "0"),
    _needs("status", String(10)),
    _needs("detail", Text, ""),
    _needs("failures", Integer, "0"),
    _needs("retry_at", Double, "0"),
    Index(None, "host"),
)
"""*want*: present or absent, at revision *want_rev*; *done_rev*: the last revision whose
outcome (*status*, *detail*) is known."""

vm = Table(
    "vm",
    metadata,
    _id(),
    Column("zone", UUID, ForeignKey("zone.id"), nullable=False),
    _needs("owner", UUID),
    _needs("account", String(255)),
    _needs("name", String(63)),
    _needs("display_name", String(255)),
    _needs("template", UUID),
    _needs("iso", Boolean),
    _needs("host", UUID),
    _needs("pool", UUID),
    _needs("disk", String(128)),
    _needs("disk_size", BigInteger, "0"),
    _needs("processors", Integer),
    _needs("memory", BigInteger),
    _needs("controller", String(16), ""),
    _needs("accelerated", Boolean, false()),
    _needs("state", String(16)),
    _needs("goal", String(16)),
    _needs("fence", BigInteger, "0"),
    _needs("deployed", Boolean, false()),
    _needs("fetches", Integer, "0"),
    Column("download", UUID),
    Column("host_job", UUID),
    Column("api_job", UUID),
    _needs("note", Text, ""),
    _needs("retry_at", Double, "0"),
    _needs("created", Double),
    _needs("updated", Double),
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

api_job = Table(
    "api_job",
    metadata,
    _id(),
    _needs("owner", UUID),
    _needs("command", String(255)),
    _needs("status", Integer),
    _needs("result", Text, "{}"),
    Column("instance_type", String(64)),
    Column("instance", UUID),
    _needs("created", Double),
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
    _id(),
    _needs("type", String(64)),
    _needs("level", String(8)),
    _needs("state", String(16), "Completed"),
    _needs("description", Text),
    _needs("account", String(255), "system"),
    Column("resource", UUID),
    Column("username", String(255)),
    Column("address", String(64)),
    _needs("created", Double),
    Index(None, "created"),
)

session = Table(
    "session",
    metadata,
    Column("digest", String(64), primary_key=True),
    _needs("user", UUID),
    _needs("key_digest", String(64)),
    _needs("opened", Double),
    _needs("until", Double),
    Index(None, "user"),
)
"""Logins. *digest*, *key_digest*: SHA-256 of the cookie and of the key, so that the ledger opens
no session. *opened* and *until*: steady times."""

manager = Table(
    "manager",
    metadata,
    Column("name", String(64), primary_key=True),
    _needs("address", String(255)),
    _needs("version", String(255)),
    _needs("seen", Double),
)
"""The managers of this ledger. *seen*: when it was last alive, by the database's clock."""

lease = Table(
    "lease",
    metadata,
    Column("name", String(64), primary_key=True),
    _needs("owner", String(64)),
    _needs("fence", BigInteger),
    _needs("until", Double),
)
