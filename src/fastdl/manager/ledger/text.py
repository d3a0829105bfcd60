# SPDX-License-Identifier: Apache-2.0
"""Small things that every noun of the ledger needs: ids and JSON columns."""

from __future__ import annotations

import json
import uuid
from typing import Any


def new_id() -> str:
    """Return a fresh UUID string."""
    return str(uuid.uuid4())


def dumps(value: Any) -> str:
    """Return *value* as compact JSON for a text column."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


loads = json.loads
