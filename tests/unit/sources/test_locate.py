# SPDX-License-Identifier: Apache-2.0
"""How many connections an origin stands, by its kind."""

from __future__ import annotations

import pytest

from fastdl.model.url import Url
from fastdl.sources.locate import connections_to


@pytest.mark.parametrize(
    ("url", "most"),
    [
        ("https://images.s3.eu-central-1.amazonaws.com/a.qcow2", 32),
        ("https://storage.googleapis.com/bucket/a.qcow2", 32),
        ("https://account.blob.core.windows.net/c/a.vhd", 32),
        ("https://minio.example.org/b/a.raw?X-Amz-Signature=00", 32),
        ("http://10.1.2.3/a.raw", 16),
        ("http://127.0.0.1:8080/a.raw", 16),
        ("http://[fd00::1]/a.raw", 16),
        ("https://cloud.debian.org/a.qcow2", 8),
        ("https://notamazonaws.com/a.qcow2", 8),
        ("https://amazonaws.com.example.org/a.qcow2", 8),
        ("http://93.184.216.34/a.raw", 8),
        ("http://[2606:2800:220:1::1]/a.raw", 8),
        ("nfs://10.1.2.3/export/a.raw", 4),
        ("/srv/a.raw", 4),
    ],
)
def test_the_limit_follows_from_the_kind_of_origin(url: str, most: int) -> None:
    """Nobody said how many: object stores are made for many, strangers are spared."""
    assert connections_to(Url.parse(url)) == most
