# SPDX-License-Identifier: Apache-2.0
"""The manager's own files in its state folder: a lock, a key, a name."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from fastdl import fs
from fastdl.errors import UsageError
from fastdl.manager.files import write_private
from fastdl.manager.vault import Vault, read_key


@contextlib.contextmanager
def held(state: Path) -> Iterator[Path]:
    """The state folder, private and locked; UsageError if another manager has it."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = fs.open_locked(state / "lock")
    except BlockingIOError:
        raise UsageError(f"another manager uses the state folder {state}") from None
    except OSError as exc:
        raise UsageError(f"the state folder {state} cannot be used: {exc.strerror}") from exc
    try:
        yield state
    finally:
        os.close(lock)


def open_vault(state: Path) -> Vault:
    """Return the key that encrypts secrets in the ledger, created at the first start."""
    path = state / "secret.key"
    if not path.exists():
        write_private(path, secrets.token_hex(32) + "\n")
    return Vault(read_key(path))


def instance(state: Path) -> str:
    """Return this manager's name, unique among those of one ledger; created at the first start."""
    path = state / "instance"
    if not path.exists():
        write_private(path, secrets.token_hex(16))
    return path.read_text().strip()
