# SPDX-License-Identifier: Apache-2.0
"""Who asked for what an event tells, and from which address."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event", sa.Column("username", sa.String(255)))
    op.add_column("event", sa.Column("address", sa.String(64)))
