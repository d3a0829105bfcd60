# SPDX-License-Identifier: Apache-2.0
"""A confined process's workspace: what fails in its folder is said as everywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdl.agent.child_workspace import ChildWorkspace
from fastdl.engine.workspace import Workspace
from fastdl.errors import SinkSpaceError
from fastdl.sinks.null import NullSink
from tests.env.tmpfs import tmpfs


def test_a_folder_that_cannot_be_made_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have filled up since the download began: it goes on without a spool."""
    folder = tmp_path / "folder"
    with tmpfs(folder, "1m,nr_inodes=2"), monkeypatch.context() as patch:
        (folder / "full").touch()
        patch.chdir(folder)
        with pytest.raises(SinkSpaceError, match="making staged"):
            ChildWorkspace(Workspace(NullSink()), None, None).spool(1)
