# SPDX-License-Identifier: Apache-2.0
"""The queue is read lane by lane, and what hosts hold is found without looking at what waits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

HELD = sa.text("host IS NOT NULL")


def upgrade() -> None:
    op.drop_index("ix_job_queue", "job")
    op.drop_index("ix_job_lane", "job")
    op.create_index("ix_job_queue", "job", ["waiting", "lane", "rank", "created", "id"])
    op.create_index("ix_job_held", "job", ["state"], sqlite_where=HELD, postgresql_where=HELD)
