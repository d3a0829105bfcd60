# SPDX-License-Identifier: Apache-2.0
"""How is a manager backed up and restored? As docs/operations.md says; for ``upgrading``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.env import postgresql

FILES = ("ca", "secret.key", "instance", "admin.json")
"""What docs/operations.md names besides the database."""


class SqliteFiles:
    """Back up and restore as docs/operations.md says, with the ledger in the state folder."""

    database: str | None = None

    def __init__(self, state: Path, kept: Path) -> None:
        self.state, self.kept = state, kept

    def back_up(self) -> None:
        """Copy what is to be kept, while the manager runs."""
        self.kept.mkdir()
        for name in FILES:
            copy = shutil.copytree if (self.state / name).is_dir() else shutil.copy2
            copy(self.state / name, self.kept / name)
        self.dump()

    def restore(self) -> None:
        """Put it back; the manager does not run."""
        shutil.rmtree(self.state)
        shutil.copytree(self.kept, self.state)

    def dump(self) -> None:
        target = self.kept / "manager.db"
        command = ["sqlite3", str(self.state / "manager.db"), f'.backup "{target}"']
        subprocess.run(command, check=True, timeout=60)


class PostgresqlFiles(SqliteFiles):
    """The same with the ledger on a server."""

    def __init__(self, state: Path, kept: Path, server: str) -> None:
        super().__init__(state, kept)
        self.server = server
        self.database = postgresql.fresh_database(server, "fastdl")

    def dump(self) -> None:
        self._run("pg_dump", "--file", str(self.kept / "ledger.sql"))

    def restore(self) -> None:
        super().restore()
        postgresql.fresh_database(self.server, "fastdl")
        once = ("--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1")
        self._run("psql", *once, "--file", str(self.kept / "ledger.sql"))

    def _run(self, program: str, *words: str) -> None:
        assert self.database is not None
        command = [program, "--dbname", self.database, *words]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
