# SPDX-License-Identifier: Apache-2.0
"""Does systemd understand our units, and how much do they let a broken process do?"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.env.units import EXPOSURE

PACKAGING = Path(__file__).parents[2] / "packaging"


@pytest.fixture(params=sorted(EXPOSURE))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit, its command replaced by one that exists here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = (PACKAGING / request.param).read_text()
    program = tmp_path / "fastdl"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    made = tmp_path / str(request.param)
    made.write_text(text.replace("ExecStart=fastdl ", f"ExecStart={program} "))
    assert made.read_text() != text
    return made


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``systemd-analyze``; it needs no running systemd for this."""
    return subprocess.run(
        ["systemd-analyze", *words], check=False, capture_output=True, text=True, timeout=60
    )


def test_systemd_accepts_the_unit(unit: Path) -> None:
    """A word that it does not know is ignored with a warning that nobody reads."""
    done = analyze("verify", "--recursive-errors=no", "--man=no", str(unit))
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert done.returncode == 0, done.stderr
    assert not said


def test_the_unit_is_confined(unit: Path) -> None:
    """A change that opens it up must be seen (the table is in docs/operations.md)."""
    done = analyze("security", "--offline=yes", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level.*?: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE[unit.name]
