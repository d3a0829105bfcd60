# SPDX-License-Identifier: Apache-2.0
"""What clients of CloudStack compare: a zone's network as given, and whether a user is locked."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "account",
        sa.Column("locked", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.add_column("zone", sa.Column("network", sa.Text, nullable=False, server_default="{}"))
