# SPDX-License-Identifier: Apache-2.0
"""What templates and hosts are listed by: processor architectures, and whether an ISO boots."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    arch = sa.Column("arch", sa.String(16), server_default="x86_64", nullable=False)
    op.add_column("template", arch)
    op.add_column(
        "template", sa.Column("bootable", sa.Boolean(), server_default=sa.true(), nullable=False)
    )
    op.add_column("host", sa.Column("arch", sa.String(16), server_default="", nullable=False))
    template = sa.table(
        "template", sa.column("id"), sa.column("flags"), sa.column("bootable", sa.Boolean)
    )
    db = op.get_bind()
    for id_, text in db.execute(sa.select(template.c.id, template.c.flags)).all():
        flags = json.loads(text)
        bootable = flags.pop("bootable", True)
        values = {"bootable": bool(bootable), "flags": json.dumps(flags, sort_keys=True)}
        db.execute(sa.update(template).where(template.c.id == id_).values(**values))
