# SPDX-License-Identifier: Apache-2.0
"""Can somebody who writes to a shared pool turn a download's own folder against the host?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdl.agent import folder
from fastdl.errors import FastdlError

IDS = (66_001, 66_001)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("victim", ["file", "folder"])
def test_a_folder_that_was_swapped_is_not_given_away(
    victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making it and giving it to the download's user, another host puts a link there."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x") if victim == "file" else secret.mkdir()
    pool = tmp_path / "pool"
    pool.mkdir()
    make = Path.mkdir

    def swapped(self: Path, mode: int = 0o777) -> None:
        make(self, mode)
        self.rmdir()
        self.symlink_to(secret)

    monkeypatch.setattr(Path, "mkdir", swapped)
    with pytest.raises(FastdlError), folder.of_child(pool, "image", IDS):
        pass
    assert secret.stat().st_uid == 0
    assert secret.exists()
