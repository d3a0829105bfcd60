# SPDX-License-Identifier: Apache-2.0
"""Which look at its keystore a host's last report was: older ones are told from it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host", sa.Column("looked", sa.BigInteger, nullable=False, server_default="0"))
