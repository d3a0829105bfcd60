# SPDX-License-Identifier: Apache-2.0
"""The slots that are in use are found without reading those that are not."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_IN_USE = sa.text("active > 0 OR cap IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_slot_in_use",
        "slot",
        ["kind", "key"],
        unique=False,
        sqlite_where=_IN_USE,
        postgresql_where=_IN_USE,
    )
