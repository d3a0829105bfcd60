# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl inspect`` say what an image is, with the exit code of its refusal?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdl.cli.main import main
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build, run

pytestmark = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)


def inspect(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, object]]:
    """The exit code and the JSON object of one run."""
    code = main(["inspect", "--json", *map(str, args)])
    return code, json.loads(capsys.readouterr().out)


def test_a_safe_image_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What registration needs: the format and the size of the disk."""
    image = build(tmp_path / "image", Recipe(size=3 * MIB))
    code, report = inspect(capsys, image)
    assert (code, report["safe"], report["format"]) == (0, True, "qcow2")
    assert report["virtual_size"] == 3 * MIB


def test_the_text_for_people_names_format_and_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same facts as the JSON object, one a line."""
    image = build(tmp_path / "image", Recipe(size=3 * MIB))
    assert main(["inspect", str(image)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "format:        qcow2" in lines
    assert lines[-1] == "safe:          yes"


def test_an_unsafe_image_exits_with_24_and_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says why, the exit code says which class (I01)."""
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M")
    image = tmp_path / "image"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", image)
    code, report = inspect(capsys, image)
    assert (code, report["error"]) == (24, "UNSAFE_IMAGE")
    assert "backing file" in str(report["reasons"])
    assert main(["inspect", str(image)]) == 24
    assert "fastdl: UNSAFE_IMAGE: qcow2: a backing file" in capsys.readouterr().err


def test_limits_and_declarations_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk above the limit is 25, a qcow2 declared raw is 24 (I12, I15)."""
    image = build(tmp_path / "image", Recipe(size=3 * MIB))
    assert inspect(capsys, "--max-virtual-size", "2M", image)[0] == 25
    assert inspect(capsys, "--source-format", "raw", image)[0] == 24
    assert inspect(capsys, "--source-format", "qcow2", image)[0] == 0


def test_what_cannot_be_read_is_a_mistake_of_the_caller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a folder and a device without an end are no images."""
    for path in (tmp_path / "missing", tmp_path, Path("/dev/null")):
        assert main(["inspect", str(path)]) == 2
    assert "missing" in capsys.readouterr().err
    (tmp_path / "empty").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "empty")]) == 23
