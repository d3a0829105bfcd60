# SPDX-License-Identifier: Apache-2.0
"""The digests of templates' pieces, kept for the next host."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "piece_list",
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("hashes", sa.Text(), nullable=False),
        sa.Column("host", sa.String(length=40), nullable=False),
        sa.Column("refused", sa.Text(), server_default="[]", nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["template"],
            ["template.id"],
            name=op.f("fk_piece_list_template"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("template", name=op.f("pk_piece_list")),
    )
