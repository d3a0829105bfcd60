# SPDX-License-Identifier: Apache-2.0
"""Templates that follow a publisher's product."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "follow",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("product", sa.String(length=2048), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("keep", sa.Integer(), nullable=False),
        sa.Column("seen", sa.String(length=64), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("due", sa.Double(), server_default="0", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_follow")),
    )
    op.create_table(
        "follow_version",
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("follow", sa.String(length=40), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.ForeignKeyConstraint(
            ["follow"], ["follow.id"], name=op.f("fk_follow_version_follow"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["template"],
            ["template.id"],
            name=op.f("fk_follow_version_template"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("template", name=op.f("pk_follow_version")),
    )
    op.create_index(op.f("ix_follow_version_follow"), "follow_version", ["follow"], unique=False)
