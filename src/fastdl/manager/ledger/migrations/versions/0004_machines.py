# SPDX-License-Identifier: Apache-2.0
"""Virtual machines. For some days the first migration made their table; then it is there."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if sa.inspect(op.get_bind()).has_table("vm"):
        return
    op.create_table(
        "vm",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("display_name", sa.String(length=255), nullable=False),
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("iso", sa.Boolean(), nullable=False),
        sa.Column("host", sa.String(length=40), nullable=False),
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("disk", sa.String(length=128), nullable=False),
        sa.Column("disk_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("processors", sa.Integer(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("controller", sa.String(length=16), server_default="", nullable=False),
        sa.Column("accelerated", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("goal", sa.String(length=16), nullable=False),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("deployed", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("fetches", sa.Integer(), server_default="0", nullable=False),
        sa.Column("download", sa.String(length=40), nullable=True),
        sa.Column("host_job", sa.String(length=40), nullable=True),
        sa.Column("api_job", sa.String(length=40), nullable=True),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("retry_at", sa.Double(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("updated", sa.Double(), nullable=False),
        sa.Column("removed", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["zone"], ["zone.id"], name=op.f("fk_vm_zone")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vm")),
    )
    op.create_index("ix_vm_host", "vm", ["host", "removed"], unique=False)
    op.create_index("ix_vm_host_job", "vm", ["host_job"], unique=False)
    op.create_index("ix_vm_zone", "vm", ["zone", "removed"], unique=False)
