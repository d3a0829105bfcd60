# SPDX-License-Identifier: Apache-2.0
"""Does a server that serves one request at a time, and refuses more, still give its file?

A real nginx with ``limit_conn``: what it serves must go on, and it must not be pestered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdl
from tests.env.certs import CertLab
from tests.env.images import run
from tests.env.nginx import LIMITS, Nginx, start_nginx
from tests.env.origin import pseudo_random

IMAGE = pseudo_random(31, 16 << 20)
CHECKSUM = f"sha-256:{hashlib.sha256(IMAGE).hexdigest()}"
TOO_MANY = 30
"""Refused requests: a few to find the limit out, not one after the other."""


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, certs: CertLab) -> Iterator[Nginx]:
    """One nginx for the module."""
    folder = tmp_path_factory.mktemp("nginx")
    with start_nginx(folder, certs, {"image.raw": IMAGE}) as server:
        yield server


@pytest.mark.parametrize("status", LIMITS)
def test_the_connection_that_is_served_goes_on(nginx: Nginx, tmp_path: Path, status: int) -> None:
    """Whatever status refuses the second, and however long it asks to wait."""
    url = nginx.url(f"limited-{status}", "image.raw")
    before = len(nginx.access_log.read_text().splitlines())
    result = fastdl.fetch_sync(
        url, tmp_path / "x", checksum=CHECKSUM, max_connections=8, max_connections_per_origin=8
    )
    assert (tmp_path / "x").read_bytes() == IMAGE
    (mirror,) = result.mirrors
    assert mirror.state == "ok"
    lines = nginx.access_log.read_text().splitlines()[before:]
    refused = [line for line in lines if f'" {status} ' in line]
    assert len(refused) <= TOO_MANY, refused
    assert result.seconds < 15, "it waited for what only the refused connection was told"


@pytest.mark.parametrize("status", [403, 429])
def test_without_a_checksum_too(nginx: Nginx, tmp_path: Path, status: int) -> None:
    """The validators of what is served are enough."""
    url = nginx.url(f"limited-{status}", "image.raw")
    result = fastdl.fetch_sync(url, tmp_path / "x", max_connections=4)
    assert (tmp_path / "x").read_bytes() == IMAGE
    assert result.consistency == "validator"


@pytest.mark.parametrize("status", [403, 503])
def test_tables_of_an_image_come_through_a_limit(nginx: Nginx, tmp_path: Path, status: int) -> None:
    """Reading a map over several streams, beside the open first answer, needs room as well."""
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        for at in range(0, 4 << 30, 512 << 20):
            file.seek(at)
            file.write(pseudo_random(at % 251, 1 << 20))
        file.truncate(4 << 30)
    image = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=4096", str(raw), str(image))
    nginx.put("disk.qcow2", image.read_bytes())
    target = tmp_path / "out.raw"
    url = nginx.url(f"limited-{status}", "disk.qcow2")
    fastdl.fetch_sync(url, target, target_format="raw", retry=8)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(target), str(raw))
