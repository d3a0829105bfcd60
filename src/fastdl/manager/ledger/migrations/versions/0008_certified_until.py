# SPDX-License-Identifier: Apache-2.0
"""Until when a host's own certificate is good."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host", sa.Column("certified_until", sa.Double))
