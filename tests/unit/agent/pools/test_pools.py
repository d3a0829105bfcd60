# SPDX-License-Identifier: Apache-2.0
"""Do folders and devices behave as pools: names, room, markers, locks, ids?"""

from __future__ import annotations

import json
import os
import threading
import uuid
from pathlib import Path

import pytest

from fastdl.agent.pools import (
    DevicePool,
    DirectoryPool,
    Image,
    Marker,
    MarkerFolder,
    Volume,
    configured,
)
from fastdl.errors import AgentRefusedError, SinkBusyError, SinkSpaceError, UsageError
from fastdl.wire.messages import PoolType


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "x" * 129, "é"])
def test_names_that_could_leave_the_pool_are_refused(name: str) -> None:
    """T15: a command cannot name anything but a volume."""
    with pytest.raises(UsageError):
        Volume(name)


def test_a_folder_keeps_its_own_id(tmp_path: Path) -> None:
    """Every host that mounts the folder reports the same pool."""
    one = DirectoryPool(tmp_path, name="a")
    other = DirectoryPool(tmp_path, name="b")
    assert one.id == other.id == one.info().id
    (tmp_path / "elsewhere").mkdir()
    assert DirectoryPool(tmp_path / "elsewhere", name="c").id != one.id


def test_racing_hosts_agree_on_the_id(tmp_path: Path) -> None:
    """Two agents that meet a fresh folder at the same time."""
    ids: set[str] = set()
    threads = [
        threading.Thread(target=lambda: ids.add(DirectoryPool(tmp_path, name="a").id))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1
    assert [p.name for p in (tmp_path / ".fastdl").iterdir()] == ["pool"]


def test_who_reads_the_folder_can_prove_it(tmp_path: Path) -> None:
    """The id may be known to anybody; the secret beside it only to who reads the storage."""
    one, other = (DirectoryPool(tmp_path, name=name).info() for name in "ab")
    assert one.proof
    assert one.proof == other.proof
    note = tmp_path / ".fastdl/pool"
    assert note.stat().st_mode & 0o077 == 0
    assert one.proof not in note.read_text()
    # libvirt's own id and the folder's give different proofs of one folder.
    assert DirectoryPool(tmp_path, name="a", pool_id="u").info().proof != one.proof
    note.write_text(json.dumps({"id": one.id, "secret": "guessed"}))
    claimed = DirectoryPool(tmp_path, name="c").info()
    assert claimed.id == one.id
    assert claimed.proof != one.proof
    note.write_text(json.dumps({"id": one.id}))
    assert DirectoryPool(tmp_path, name="c").info().proof is None


def test_a_note_that_is_none_is_reported(tmp_path: Path) -> None:
    """Damaged, a link, or a FIFO that nobody writes to: the pool says so and nobody waits."""
    path = tmp_path / ".fastdl/pool"
    path.parent.mkdir()
    no_text = json.dumps({"id": str(uuid.uuid4()), "secret": 1})
    for damaged in ("{", "[]", '{"id": "x"}', '{"id": 1}', no_text, "[" * 4000):
        path.write_text(damaged)
        assert "is damaged" in (DirectoryPool(tmp_path, name="a").info().error or "")
    path.unlink()
    os.mkfifo(path)
    assert "is damaged" in (DirectoryPool(tmp_path, name="a").info().error or "")
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert DirectoryPool(tmp_path, name="a").info().error


def test_a_missing_folder_is_reported_not_raised(tmp_path: Path) -> None:
    """The inventory says why a pool cannot be used."""
    info = DirectoryPool(tmp_path / "gone", name="a").info()
    assert "there is no folder" in (info.error or "")


@pytest.mark.parametrize(
    ("image", "fits"),
    [
        (Image(source_size=1 << 20, virtual_size=1 << 60, format="qcow2"), True),
        (Image(source_size=1 << 60, format="qcow2"), False),
        (Image(source_size=1 << 20, virtual_size=1 << 60, format="raw"), False),
        (Image(), True),
    ],
)
def test_the_room_is_checked_by_what_will_lie_on_disk(
    tmp_path: Path, image: Image, fits: bool
) -> None:
    """A sparse qcow2 may promise more than the pool has; a raw image needs all of it."""
    pool = DirectoryPool(tmp_path, name="a")
    if fits:
        with pool.place(Volume("v"), image) as placement:
            assert placement.target == str(tmp_path / ".fastdl/new/v/v")
            assert placement.beneath == tmp_path
    else:
        with pytest.raises(SinkSpaceError), pool.place(Volume("v"), image):
            pass


def test_markers_read_back_and_damage_is_no_marker(tmp_path: Path) -> None:
    """A torn or foreign file means: nothing is known."""
    markers = MarkerFolder(tmp_path / "m")
    assert markers.read("v") is None
    marker = Marker(volume="v", complete=True, size=7, digests={"sha-256": "ab"}, sources=("u",))
    markers.write(marker)
    found = markers.read("v")
    assert found is not None
    assert (found.size, found.digests, found.complete) == (7, {"sha-256": "ab"}, True)
    path = tmp_path / "m" / "v.json"
    plain = json.loads(path.read_bytes())
    for damage in (
        b"",
        b"[]",
        path.read_bytes()[:-5],
        json.dumps(plain | {"volume": "other"}).encode(),
        json.dumps(plain | {"size": "7"}).encode(),
        json.dumps(plain | {"digests": []}).encode(),
    ):
        path.write_bytes(damage)
        assert markers.read("v") is None
    path.write_text(json.dumps(plain | {"of a later version": 1}))
    assert markers.read("v") is not None
    assert markers.delete("v")
    assert not markers.delete("v")


def test_one_writer_and_no_overtaken_claim(tmp_path: Path) -> None:
    """A zombie host of a shared pool is stopped at the pool, not only in the ledger."""
    markers = MarkerFolder(tmp_path)
    with (
        markers.lock("v", fence=4),
        pytest.raises(SinkBusyError),
        MarkerFolder(tmp_path).lock("v", fence=5),
    ):
        pass
    with pytest.raises(AgentRefusedError), markers.lock("v", fence=3):
        pass
    with markers.lock("v", fence=4), markers.lock("other"):
        pass
    with markers.lock("v"):
        pass


def test_pools_of_the_command_line(tmp_path: Path) -> None:
    """Folders, devices, and what is neither a pair nor absolute."""
    (pool,) = configured([f"a={tmp_path}"], host_id="h", state=tmp_path)
    assert isinstance(pool, DirectoryPool)
    for spec in ("a", "=/x", "a=relative", "b=shared:relative", f"a={tmp_path}"):
        with pytest.raises(UsageError):
            configured([f"a={tmp_path}", spec], host_id="h", state=tmp_path)


def test_a_folder_is_shared_where_the_operator_says_so(tmp_path: Path) -> None:
    """Not every shared file system can be told by its type: virtiofs, Lustre and others."""
    own, shared = configured([f"a={tmp_path}", f"b=shared:{tmp_path}"], host_id="h", state=tmp_path)
    assert not own.info().shared
    assert shared.info().shared
    assert shared.info().type is PoolType.SHARED_MOUNT_POINT
    assert shared.info().path == str(tmp_path)


def test_a_device_pool_says_when_it_is_none(tmp_path: Path) -> None:
    """A file where a device should be."""
    (tmp_path / "f").touch()
    pool = DevicePool(tmp_path / "f", name="d", host_id="h", state=tmp_path)
    assert "not a block device" in (pool.info().error or "")
    other = DevicePool(tmp_path / "f", name="d", host_id="other", state=tmp_path)
    assert pool.id != other.id
