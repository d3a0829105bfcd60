# SPDX-License-Identifier: Apache-2.0
"""What a killed run of the tests left in libvirt's folders does not disturb the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.env import libvirtd


def made_by_another() -> str:
    """A name that a run made which is over."""
    code = "from tests.env import libvirtd; print(libvirtd.new_name())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout.strip()


def test_what_dead_runs_defined_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    """By the pid in the name, and when that process started: a pid comes again."""
    pytest.importorskip("libvirt")
    dead, alive = made_by_another(), libvirtd.new_name()
    reused = alive.replace(alive.split("-")[2], "1", 1)
    for name in (dead, alive, reused, "fastdl-vm", "i-2-3-VM", f"{dead}.2"):
        (tmp_path / f"{name}.xml").write_text("<domain/>")
    assert set(libvirtd.forget_dead_runs((str(tmp_path),))) == {dead, reused}
    (tmp_path / f"fastdl-{uuid.uuid4()}.xml").write_text("/var/tmp/fastdl-machines-gone/pool1/x")
    assert len(libvirtd.forget_dead_runs((str(tmp_path),))) == 1
    kept = {path.stem for path in tmp_path.iterdir()}
    assert kept == {alive, "fastdl-vm", "i-2-3-VM", f"{dead}.2"}
    assert str(os.getpid()) in alive
