# SPDX-License-Identifier: Apache-2.0
"""Is it told apart why qemu-img failed: no space left, or a broken image?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fastdl.engine.cancel import Cancel
from fastdl.engine.convert import convert
from fastdl.errors import FormatError, SinkSpaceError
from fastdl.model.image import Format
from tests.env.origin import pseudo_random
from tests.env.tmpfs import tmpfs

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A VMDK with 24 MiB of data."""
    raw, made = tmp_path / "raw", tmp_path / "image.vmdk"
    raw.write_bytes(pseudo_random(3, 24 << 20))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, made], check=True, timeout=60
    )
    return made


def test_a_full_file_system_is_the_targets_fault(image: Path, tmp_path: Path) -> None:
    """The operator has to make room; nobody has to make the image anew."""
    with tmpfs(tmp_path / "small", "12m"), pytest.raises(SinkSpaceError):
        convert(image, tmp_path / "small" / "out", Format.VMDK, Cancel())


def test_a_broken_image_is_the_images_fault(image: Path, tmp_path: Path) -> None:
    """Where there is room, it cannot have been for want of space."""
    image.write_bytes(image.read_bytes()[:512] + b"\xff" * (1 << 20))
    with pytest.raises(FormatError):
        convert(image, tmp_path / "out", Format.VMDK, Cancel())
