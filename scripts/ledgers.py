# SPDX-License-Identifier: Apache-2.0
"""Keeps an empty ledger of the newest schema, which later versions must be able to upgrade.

``python -m scripts.ledgers`` writes ``tests/vectors/ledgers/NNNN.sql``, as SQLite dumps it. A file
that exists is never written again: it is what somebody may have.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from fastdl.manager.ledger.engine import default_url, open_ledger

FOLDER = Path("tests/vectors/ledgers")


def dump() -> tuple[str, str]:
    """(The newest schema, the statements that make an empty ledger of it)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(open_ledger(default_url(folder)).close())
        with contextlib.closing(sqlite3.connect(folder / "manager.db")) as connection:
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return revision, "\n".join(connection.iterdump()) + "\n"


def main() -> int:
    """Write the ledger of the newest schema; 1 if there is one that differs."""
    revision, statements = dump()
    path = FOLDER / f"{revision}.sql"
    if path.exists():
        same = path.read_text() == statements
        print(f"{path} exists and is {'the same' if same else 'different'}")
        return int(not same)
    FOLDER.mkdir(exist_ok=True)
    path.write_text(statements)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
