# SPDX-License-Identifier: Apache-2.0
"""The ledger's tables and columns. ``migrations/`` creates them; a test compares the two.

Conventions: ids are UUID strings made by us; times are seconds since 1970 as doubles; lists
and small documents are JSON text. A compare-and-set is ``UPDATE … WHERE id AND fence`` and
its row count: no RETURNING, no SKIP LOCKED, so that the statements run on every engine.
"""

from __future__ import annotations

from fastdl.manager.ledger.tables.accounts import account, replay, session
from fastdl.manager.ledger.tables.base import metadata
from fastdl.manager.ledger.tables.certificates import cert, cert_host
from fastdl.manager.ledger.tables.jobs import api_job, api_job_part, attempt, event, job, slot
from fastdl.manager.ledger.tables.machines import vm
from fastdl.manager.ledger.tables.managers import lease, manager, setting
from fastdl.manager.ledger.tables.templates import (
    copy,
    follow,
    follow_version,
    piece_list,
    template,
    template_account,
    template_zone,
)
from fastdl.manager.ledger.tables.zones import host, host_pool, pool, token, zone

__all__ = [
    "account",
    "api_job",
    "api_job_part",
    "attempt",
    "cert",
    "cert_host",
    "copy",
    "event",
    "follow",
    "follow_version",
    "host",
    "host_pool",
    "job",
    "lease",
    "manager",
    "metadata",
    "piece_list",
    "pool",
    "replay",
    "session",
    "setting",
    "slot",
    "template",
    "template_account",
    "template_zone",
    "token",
    "vm",
    "zone",
]
