# SPDX-License-Identifier: Apache-2.0
"""What do tests share? Origins at a distance, and pools of a real libvirtd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import origin, runner
from tests.env import libvirtd
from tests.env.loopdev import loop_device

MIB = 1 << 20


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runner.Bench]:
    """A real nginx over payloads, and delay proxies before it."""
    if reason := origin.missing():
        pytest.skip(reason)
    with runner.bench(tmp_path_factory.mktemp("paths")) as opened:
        yield opened


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A connection to a running libvirtd."""
    with libvirtd.running(tmp_path_factory.mktemp("libvirtd")) as uri:
        conn = pytest.importorskip("libvirt").open(uri)
        yield conn
        conn.close()


@pytest.fixture
def define(connection: Any) -> Iterator[Any]:
    """Define and start pools; stop and forget them at the end."""
    made: list[Any] = []

    def one(xml: str, *, build: bool = False) -> Any:
        pool = connection.storagePoolDefineXML(xml)
        made.append(pool)
        if build:
            pool.build(1)  # VIR_STORAGE_POOL_BUILD_NEW… overwrites what a fresh device may hold
        pool.create()
        return pool

    yield one
    for pool in made:
        if pool.isActive():
            pool.destroy()
        pool.undefine()


@pytest.fixture
def loopdev(tmp_path: Path) -> Iterator[Path]:
    """A fresh loop device of 64 MiB."""
    with loop_device(tmp_path, size=64 * MIB) as found:
        yield Path(found.path)


@pytest.fixture
def dir_pool(define: Any, tmp_path: Path) -> Any:
    """A started pool of the type dir."""
    folder = tmp_path / "dir"
    folder.mkdir()
    return define(
        f"<pool type='dir'><name>{libvirtd.new_name()}</name><target><path>{folder}</path>"
        "</target></pool>"
    )


@pytest.fixture
def disk_pool(define: Any, loopdev: Path) -> Any:
    """A started pool of the type disk: its volumes are GPT partitions of a loop device."""
    subprocess.run(["parted", "-s", loopdev, "mklabel", "gpt"], check=True, capture_output=True)
    return define(
        f"<pool type='disk'><name>{libvirtd.new_name()}</name><source><device path='{loopdev}'/>"
        "<format type='gpt'/></source><target><path>/dev</path></target></pool>"
    )
