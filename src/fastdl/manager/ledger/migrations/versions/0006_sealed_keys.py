# SPDX-License-Identifier: Apache-2.0
"""Room for secret keys that are encrypted; the manager encrypts them when it starts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("account") as account:
        account.alter_column("secret_key", type_=sa.String(255))
