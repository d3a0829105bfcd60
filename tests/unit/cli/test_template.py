# SPDX-License-Identifier: Apache-2.0
"""Which format does a URL show?"""

from __future__ import annotations

import pytest

from fastdl.cli.template import format_of
from fastdl.errors import UsageError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://m.example/u24.qcow2", "qcow2"),
        ("https://m.example/u24.QCOW2?token=a.raw", "qcow2"),
        ("https://m.example/u24.qcow2.meta4", "qcow2"),
        ("https://m.example/disk.raw.xz#part", "raw"),
        ("nfs://m.example/export/install.iso", "iso"),
        ("https://m.example/u%32.vhd.zip", "vhd"),
    ],
)
def test_the_name_shows_the_format(url: str, expected: str) -> None:
    """Compression and the metalink's own ending are looked through."""
    assert format_of(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://m.example/u24.img",
        "https://m.example/download",
        "https://m.example/.qcow2.d/",
        "https://m.example/?file=u24.qcow2",
        "simplestreams:https://m.example/#ubuntu:24.04:amd64:disk1.img",
    ],
)
def test_what_shows_none_must_be_told(url: str) -> None:
    """An .img may be anything; a wrong guess would be found out at the host only."""
    with pytest.raises(UsageError, match="--format"):
        format_of(url)
