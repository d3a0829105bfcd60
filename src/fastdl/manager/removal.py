# SPDX-License-Identifier: Apache-2.0
"""The job that takes a template's copy from a pool."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.scheduler import URGENT
from fastdl.wire import messages as m


def removal(copy: Row[Any]) -> NewJob:
    """Return the job that removes *copy*, a row of ``ledger.templates.copies``."""
    return NewJob(
        kind=m.Kind.REMOVE,
        zone=copy.zone,
        template=copy.template,
        pool=copy.pool,
        single=f"remove:{copy.template}:{copy.pool}",
        rank=URGENT,
        args=m.RemoveArgs(
            template=copy.template,
            pool=copy.pool,
            volume=copy.volume,
            install_path=copy.install_path,
        ),
    )
