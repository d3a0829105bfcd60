# SPDX-License-Identifier: Apache-2.0
"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("username", sa.String(length=255), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("locked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("api_key", sa.String(length=128), nullable=True),
        sa.Column("secret_key", sa.String(length=255), nullable=True),
        sa.Column("firstname", sa.String(length=255), nullable=True),
        sa.Column("lastname", sa.String(length=255), nullable=True),
        sa.Column("email", sa.String(length=255), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("api_key", name=op.f("uq_account_api_key")),
        sa.UniqueConstraint("username", name=op.f("uq_account_username")),
    )
    op.create_table(
        "api_job",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("command", sa.String(length=255), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("result", sa.Text(), server_default="{}", nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=True),
        sa.Column("instance", sa.String(length=40), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("completed", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_job")),
    )
    op.create_index(op.f("ix_api_job_created"), "api_job", ["created"], unique=False)
    op.create_table(
        "event",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="Completed", nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("account", sa.String(length=255), server_default="system", nullable=False),
        sa.Column("resource", sa.String(length=40), nullable=True),
        sa.Column("username", sa.String(length=255), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_created"), "event", ["created"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("single", sa.String(length=255), nullable=True),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("template", sa.String(length=40), nullable=True),
        sa.Column("pool", sa.String(length=40), nullable=True),
        sa.Column("volume", sa.String(length=128), nullable=True),
        sa.Column("host", sa.String(length=40), nullable=True),
        sa.Column("lane", sa.String(length=255), server_default="", nullable=False),
        sa.Column("slots", sa.Text(), server_default="[]", nullable=False),
        sa.Column("rank", sa.Integer(), server_default="10", nullable=False),
        sa.Column("waiting", sa.Boolean(), nullable=False),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tried", sa.Text(), server_default="[]", nullable=False),
        sa.Column("args", sa.Text(), nullable=False),
        sa.Column("context", sa.Text(), server_default="{}", nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("percent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("single", name=op.f("uq_job_single")),
    )
    op.create_index("ix_job_ended", "job", ["ended"], unique=False)
    op.create_index(
        "ix_job_held",
        "job",
        ["state"],
        unique=False,
        sqlite_where=sa.text("host IS NOT NULL"),
        postgresql_where=sa.text("host IS NOT NULL"),
    )
    op.create_index("ix_job_host", "job", ["host", "state"], unique=False)
    op.create_index("ix_job_place", "job", ["template", "pool", "created"], unique=False)
    op.create_index(
        "ix_job_queue", "job", ["waiting", "lane", "rank", "created", "id"], unique=False
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lease")),
    )
    op.create_table(
        "replay",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_replay")),
    )
    op.create_index(op.f("ix_replay_until"), "replay", ["until"], unique=False)
    op.create_table(
        "setting",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=4096), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_setting")),
    )
    op.create_table(
        "slot",
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("active", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cap", sa.Integer(), nullable=True),
        sa.CheckConstraint("active >= 0", name=op.f("ck_slot_active")),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_slot")),
    )
    op.create_table(
        "template",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("display_text", sa.Text(), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("iso", sa.Boolean(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("hypervisor", sa.String(length=32), nullable=False),
        sa.Column("os_type", sa.String(length=40), nullable=True),
        sa.Column("arch", sa.String(length=16), server_default="x86_64", nullable=False),
        sa.Column("bootable", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("checksum", sa.String(length=300), nullable=True),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("featured", sa.Boolean(), nullable=False),
        sa.Column("details", sa.Text(), server_default="{}", nullable=False),
        sa.Column("flags", sa.Text(), server_default="{}", nullable=False),
        sa.Column("sources", sa.Text(), server_default="[]", nullable=False),
        sa.Column("origins", sa.Text(), server_default="[]", nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("virtual_size", sa.BigInteger(), nullable=True),
        sa.Column("validators", sa.Text(), server_default="{}", nullable=False),
        sa.Column("digests", sa.Text(), server_default="{}", nullable=False),
        sa.Column("drift", sa.Text(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("removed", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_template")),
    )
    op.create_index(
        op.f("ix_template_removed_created_id"),
        "template",
        ["removed", "created", "id"],
        unique=False,
    )
    op.create_table(
        "zone",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("network", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_zone")),
        sa.UniqueConstraint("name", name=op.f("uq_zone_name")),
    )
    op.create_table(
        "api_job_part",
        sa.Column("api_job", sa.String(length=40), nullable=False),
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["api_job"], ["api_job.id"], name=op.f("fk_api_job_part_api_job"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job"], ["job.id"], name=op.f("fk_api_job_part_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("api_job", "job", name=op.f("pk_api_job_part")),
    )
    op.create_index(op.f("ix_api_job_part_job"), "api_job_part", ["job"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("job", sa.String(length=40), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(length=40), nullable=False),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job"], ["job.id"], name=op.f("fk_attempt_job"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job", "fence", name=op.f("pk_attempt")),
    )
    op.create_table(
        "cert",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("alias", sa.String(length=255), nullable=False),
        sa.Column("live_alias", sa.String(length=255), nullable=True),
        sa.Column("hypervisor", sa.String(length=32), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("not_after", sa.Double(), nullable=False),
        sa.Column("revoked", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("warned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("removed", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_cert_zone")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cert")),
        sa.UniqueConstraint("zone", "live_alias", name=op.f("uq_cert_zone_live_alias")),
    )
    op.create_table(
        "host",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("cluster", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("resource_state", sa.String(length=24), server_default="Enabled", nullable=False),
        sa.Column("tags", sa.Text(), server_default="[]", nullable=False),
        sa.Column("renamed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("version", sa.String(length=255), server_default="", nullable=False),
        sa.Column("arch", sa.String(length=16), server_default="", nullable=False),
        sa.Column("kinds", sa.Text(), server_default="[]", nullable=False),
        sa.Column("max_downloads", sa.Integer(), server_default="4", nullable=False),
        sa.Column("rev", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("ca_sha256", sa.String(length=64), nullable=True),
        sa.Column("certified_until", sa.Double(), nullable=True),
        sa.Column("gateway", sa.String(length=64), server_default="", nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("clock_skew", sa.Double(), server_default="0", nullable=False),
        sa.Column("keystore", sa.Text(), server_default="{}", nullable=False),
        sa.Column("keystore_error", sa.Text(), nullable=True),
        sa.Column("keystore_revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_host_zone")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host")),
    )
    op.create_index(op.f("ix_host_zone_name"), "host", ["zone", "name"], unique=False)
    op.create_table(
        "pool",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("cluster", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.Column("path", sa.Text(), server_default="", nullable=False),
        sa.Column("capacity", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("available", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=True),
        sa.Column("proof", sa.String(length=64), nullable=True),
        sa.Column("open", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_pool_zone")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pool")),
    )
    op.create_index(op.f("ix_pool_zone"), "pool", ["zone"], unique=False)
    op.create_table(
        "template_account",
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["template"],
            ["template.id"],
            name=op.f("fk_template_account_template"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("template", "account", name=op.f("pk_template_account")),
    )
    op.create_table(
        "template_zone",
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("removed", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["template"], ["template.id"], name=op.f("fk_template_zone_template")
        ),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_template_zone_zone")),
        sa.PrimaryKeyConstraint("template", "zone", name=op.f("pk_template_zone")),
    )
    op.create_table(
        "cert_host",
        sa.Column("cert", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=40), nullable=False),
        sa.Column("want", sa.String(length=8), nullable=False),
        sa.Column("want_rev", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("done_rev", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_at", sa.Double(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["cert"], ["cert.id"], name=op.f("fk_cert_host_cert"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["host"], ["host.id"], name=op.f("fk_cert_host_host"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("cert", "host", name=op.f("pk_cert_host")),
    )
    op.create_index(op.f("ix_cert_host_host"), "cert_host", ["host"], unique=False)
    op.create_table(
        "copy",
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("volume", sa.String(length=128), nullable=False),
        sa.Column("template", sa.String(length=40), nullable=True),
        sa.Column("live", sa.String(length=40), nullable=True),
        sa.Column("zone", sa.String(length=40), server_default="", nullable=False),
        sa.Column("account", sa.String(length=255), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("install_path", sa.Text(), server_default="", nullable=False),
        sa.Column("size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("result", sa.Text(), server_default="{}", nullable=False),
        sa.Column("users", sa.Text(), server_default="[]", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("forced", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retry_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pool"], ["pool.id"], name=op.f("fk_copy_pool"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pool", "volume", name=op.f("pk_copy")),
        sa.UniqueConstraint("live", "pool", name=op.f("uq_copy_live_pool")),
    )
    op.create_index("ix_copy_due", "copy", ["state", "retry_at"], unique=False)
    op.create_index("ix_copy_template", "copy", ["template"], unique=False)
    op.create_table(
        "host_pool",
        sa.Column("host", sa.String(length=40), nullable=False),
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["host"], ["host.id"], name=op.f("fk_host_pool_host"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["pool"], ["pool.id"], name=op.f("fk_host_pool_pool"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("host", "pool", name=op.f("pk_host_pool")),
    )
    op.create_index(op.f("ix_host_pool_pool"), "host_pool", ["pool"], unique=False)
    op.create_table(
        "token",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("cluster", sa.String(length=255), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("replaces", sa.String(length=40), nullable=True),
        sa.Column("key_hash", sa.String(length=64), nullable=True),
        sa.Column("host", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(
            ["host"], ["host.id"], name=op.f("fk_token_host"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["replaces"], ["host.id"], name=op.f("fk_token_replaces"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_token_zone")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
    )
