# SPDX-License-Identifier: Apache-2.0
"""Do templates land in the pools of a real libvirtd, on files and on block devices?"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.agent.pools import Image, Marker, Pool, State, Usage, Volume, virt
from fastdl.agent.pools.device import device_size
from fastdl.agent.pools.nbd import exported_node
from fastdl.agent.removal import remove
from fastdl.agent.templates import Wanted, bring
from fastdl.errors import (
    FastdlError,
    FormatError,
    LimitError,
    NetError,
    SinkRefusedError,
    SinkSpaceError,
    UnsafeImageError,
    UsageError,
)
from tests.env import images, libvirtd
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.xz import relabelled

MIB = 1 << 20
VOLUME = Volume(str(uuid.UUID(int=7)))


def _publish(pool: Pool, volume: Volume, content: bytes) -> str:
    """Put *content* into a pool of files as a download does."""
    with pool.place(volume, Image(source_size=len(content))) as placement:
        Path(placement.target).write_bytes(content)
    marker = Marker(volume=volume.name, complete=True, size=len(content))
    marker = pool.seal(volume, marker)
    pool.markers.write(marker)
    return pool.publish(volume, marker, replace=False)


def _marker(pool: Pool, volume: Volume) -> Marker:
    """What is known of *volume*."""
    found = pool.markers.read(volume.name)
    assert found is not None
    return found


def _find(pool: Any, tmp_path: Path) -> Pool:
    return virt.find(pool.UUIDString(), uri=libvirtd.URI, state=tmp_path / "state")


def test_a_file_pool_lists_the_file_that_was_published(dir_pool: Any, tmp_path: Path) -> None:
    """libvirt is told to look again, so that a VM can use the template at once."""
    pool = _find(dir_pool, tmp_path)
    info = pool.info()
    assert (info.id, info.type, info.error) == (dir_pool.UUIDString(), "Filesystem", None)
    assert 0 < info.available <= info.capacity
    assert _publish(pool, VOLUME, b"x" * MIB) == VOLUME.name
    assert VOLUME.name in dir_pool.listVolumes()
    marker = _marker(pool, VOLUME)
    assert pool.inspect(VOLUME, marker).state is State.INTACT
    assert pool.remove(VOLUME, marker, used=None) == ()
    assert VOLUME.name not in dir_pool.listVolumes()
    assert pool.inspect(VOLUME, marker).state is State.ABSENT


def test_an_iso_keeps_its_suffix(dir_pool: Any, tmp_path: Path) -> None:
    """CloudStack finds ISOs by it."""
    pool = _find(dir_pool, tmp_path)
    assert _publish(pool, Volume(VOLUME.name, iso=True), b"x") == f"{VOLUME.name}.iso"
    assert f"{VOLUME.name}.iso" in dir_pool.listVolumes()


def test_a_mounted_file_system_is_a_file_pool(define: Any, loopdev: Path, tmp_path: Path) -> None:
    """fs pools: libvirt mounts the device, the room counted is that of its file system."""
    subprocess.run(["mkfs.ext4", "-q", loopdev], check=True, capture_output=True)
    mount = tmp_path / "mount"
    mount.mkdir()
    pool = _find(
        define(
            f"<pool type='fs'><name>{libvirtd.new_name()}</name><source><device path='{loopdev}'/>"
            f"<format type='ext4'/></source><target><path>{mount}</path></target></pool>"
        ),
        tmp_path,
    )
    assert pool.info().capacity < 64 * MIB
    _publish(pool, VOLUME, b"x" * MIB)
    assert (mount / VOLUME.name).stat().st_size == MIB
    with pytest.raises(SinkSpaceError), pool.place(VOLUME, Image(source_size=65 * MIB)):
        pass


def test_a_disk_pool_makes_a_partition_of_the_disks_size(disk_pool: Any, tmp_path: Path) -> None:
    """The volume is there before the first byte, blank at both ends, and found again later."""
    pool = _find(disk_pool, tmp_path)
    need = 10 * MIB + 512
    with pool.place(VOLUME, Image(virtual_size=need, format="qcow2")) as placement:
        assert placement.target_format == "raw"
        assert device_size(Path(placement.target)) >= need
        first = placement.target
    handle = _marker(pool, VOLUME).handle
    assert disk_pool.listVolumes() == [handle]
    assert Path(first).name == handle
    with pool.place(VOLUME, Image(virtual_size=need)) as placement:
        assert placement.target == first
    known = Marker(volume=VOLUME.name, handle=handle, size=need, complete=True)
    sealed = pool.seal(VOLUME, known)
    assert pool.inspect(VOLUME, sealed).state is State.INTACT
    other = Volume("another")
    with pool.place(other, Image(virtual_size=MIB)):
        pass
    assert len(disk_pool.listVolumes()) == 2
    assert _marker(pool, other).handle != handle
    subprocess.run(["mkfs.ext4", "-q", first], check=True, capture_output=True)
    found = pool.inspect(VOLUME, sealed)
    assert (found.state, found.ours) == (State.CHANGED, False)
    assert pool.remove(VOLUME, sealed, used=None) == ()
    pool.markers.delete(VOLUME.name)
    assert disk_pool.listVolumes() == [_marker(pool, other).handle]


def test_a_new_volume_shows_nothing_of_its_former_owner(disk_pool: Any, tmp_path: Path) -> None:
    """A signature left by a deleted volume must neither block nor survive the next template."""
    pool = _find(disk_pool, tmp_path)
    with pool.place(VOLUME, Image(virtual_size=10 * MIB)) as placement:
        subprocess.run(["mkfs.ext4", "-q", placement.target], check=True, capture_output=True)
    pool.remove(VOLUME, _marker(pool, VOLUME), used=None)
    pool.markers.delete(VOLUME.name)
    with pool.place(VOLUME, Image(virtual_size=10 * MIB)) as placement:
        fd = os.open(placement.target, os.O_RDONLY)
        assert os.pread(fd, MIB, 0) == bytes(MIB)
        os.close(fd)


def test_a_failed_template_leaves_no_volume_a_broken_line_does(
    disk_pool: Any, tmp_path: Path
) -> None:
    """What no repetition heals is cleaned up; what can be resumed keeps its volume."""
    pool = _find(disk_pool, tmp_path)
    with pytest.raises(FormatError), pool.place(VOLUME, Image(virtual_size=MIB)):
        raise FormatError("not an image")
    assert disk_pool.listVolumes() == []
    with pytest.raises(NetError), pool.place(VOLUME, Image(virtual_size=MIB)):
        raise NetError("reset")
    assert len(disk_pool.listVolumes()) == 1


def test_no_room_is_told_before_a_volume_is_made(disk_pool: Any, tmp_path: Path) -> None:
    """The need is the disk's virtual size, whatever the download's."""
    pool = _find(disk_pool, tmp_path)
    with (
        pytest.raises(SinkSpaceError),
        pool.place(VOLUME, Image(source_size=MIB, virtual_size=100 * MIB)),
    ):
        pass
    assert disk_pool.listVolumes() == []


def test_a_strangers_volume_is_neither_written_nor_removed(disk_pool: Any, tmp_path: Path) -> None:
    """Only what this agent made is its to change."""
    pool = _find(disk_pool, tmp_path)
    with pool.place(VOLUME, Image(virtual_size=MIB)):
        pass
    stranger = Volume(_marker(pool, VOLUME).handle)
    with pytest.raises(SinkRefusedError), pool.place(stranger, Image(virtual_size=MIB)):
        pass
    usage = Usage(lambda: [pool], libvirt=libvirtd.URI)
    with pytest.raises(SinkRefusedError, match="left alone"):
        asyncio.run(remove(pool, stranger, usage, forced=True))
    assert disk_pool.listVolumes() == [stranger.name]


def test_discovery_finds_libvirts_pools(dir_pool: Any, disk_pool: Any, tmp_path: Path) -> None:
    """Without --pool the agent offers what libvirt has, and says what is not started."""
    found = {pool.id: pool.info().type for pool in virt.discover(libvirtd.URI, state=tmp_path)}
    assert found[dir_pool.UUIDString()] == "Filesystem"
    assert found[disk_pool.UUIDString()] == "Block"
    dir_pool.destroy()
    now = {pool.id: pool.info().error for pool in virt.discover(libvirtd.URI, state=tmp_path)}
    assert "not started" in (now[dir_pool.UUIDString()] or "")
    assert now[disk_pool.UUIDString()] is None


def test_a_pool_that_goes_during_discovery_is_left_out(
    connection: Any, dir_pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody undefines it after libvirt listed it: the others are found all the same."""
    gone = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>gone-{uuid.uuid4()}</name>"
        f"<target><path>{tmp_path}</path></target></pool>"
    )
    gone.undefine()
    monkeypatch.setattr(virt.Libvirt, "pools", lambda _: [gone, dir_pool])
    found = virt.discover(libvirtd.URI, state=tmp_path)
    assert [pool.id for pool in found] == [dir_pool.UUIDString()]


def test_a_stopped_pool_says_so(dir_pool: Any, tmp_path: Path) -> None:
    """The inventory tells why a pool gets no downloads."""
    pool = _find(dir_pool, tmp_path)
    dir_pool.destroy()
    assert "not started" in (pool.info().error or "")


def test_unknown_pools_are_refused_with_their_name(connection: Any, tmp_path: Path) -> None:
    """A command for another host's pool must not end up in a default one."""
    missing = str(uuid.uuid4())
    with pytest.raises(SinkRefusedError, match=missing):
        virt.find(missing, uri=libvirtd.URI, state=tmp_path)
    with pytest.raises(UsageError):
        virt.find("../../etc", uri=libvirtd.URI, state=tmp_path)


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_a_qcow2_becomes_a_partition_that_a_guest_could_boot(
    disk_pool: Any, tmp_path: Path
) -> None:
    """CloudStack's command for a pool of block volumes: converted on the way, told once."""
    image = images.build(tmp_path / "x.qcow2", images.Recipe(size=16 * MIB, writes=20))
    images.run("qemu-img", "convert", "-O", "raw", image, tmp_path / "expected.raw")
    config = tmp_path / "config"
    config.mkdir()
    (tmp_path / "temporary").mkdir()
    (config / "agent.properties").write_text(
        f"direct.download.temporary.download.location={tmp_path}/temporary\n"
    )
    with FaultOrigin({"/x.qcow2": Resource.of(image.read_bytes())}) as origin:
        body = {
            "url": origin.url("/x.qcow2"),
            "templateId": 7,
            "destData": {"uuid": str(uuid.UUID(int=8))},
            "destPool": {"uuid": disk_pool.UUIDString(), "poolType": "CLVM", "path": "/dev"},
            "format": "QCOW2",
            "allowedCidrs": ["127.0.0.0/8"],
        }
        name = "org.apache.cloudstack.agent.directdownload.HttpDirectDownloadCommand"
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-m", "fastdl", "exec", "--config-dir", config],
                input=json.dumps([{name: body}]),
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            ((_, fields),) = json.loads(done.stdout)[0].items()
            assert fields["result"], (fields, done.stderr)
            assert fields["templateSize"] == 16 * MIB
            assert disk_pool.listVolumes() == [fields["installPath"]]
        assert len(origin.requests) < 10
    volume = disk_pool.storageVolLookupByName(fields["installPath"])
    with open(volume.path(), "rb") as device, open(tmp_path / "expected.raw", "rb") as expected:
        assert device.read(16 * MIB) == expected.read()


def test_a_compressed_raw_image_gets_a_volume_of_the_disks_size(
    disk_pool: Any, tmp_path: Path
) -> None:
    """The size of the download says nothing: without the disk's there is no volume."""
    content = pseudo_random(1, MIB) + bytes(9 * MIB)
    pool = _find(disk_pool, tmp_path)
    usage = Usage(lambda: [pool], libvirt=libvirtd.URI)
    with FaultOrigin({"/x.raw.gz": Resource.of(gzip.compress(content))}) as origin:
        wanted = Wanted(
            volume=VOLUME,
            sources=(origin.url("/x.raw.gz"),),
            options={"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"]},
            state=tmp_path / "engine",
        )
        with pytest.raises(SinkRefusedError, match="does not report the size"):
            asyncio.run(bring(pool, wanted, usage))
        done = asyncio.run(bring(pool, replace(wanted, expected_size=10 * MIB), usage))
    assert done.virtual_size == 10 * MIB
    volume = disk_pool.storageVolLookupByName(done.install_path)
    with open(volume.path(), "rb") as device:
        assert device.read(10 * MIB) == content


@pytest.mark.parametrize("blocks", [1, 5])
def test_an_xz_file_tells_the_size_of_its_disk(disk_pool: Any, tmp_path: Path, blocks: int) -> None:
    """By the indexes at its end, which a probe asks for; a limit counts before a volume is made."""
    content = pseudo_random(1, 2 * MIB) + bytes(8 * MIB)
    part = len(content) // blocks
    packed = b"".join(lzma.compress(content[n : n + part]) for n in range(0, len(content), part))
    pool = _find(disk_pool, tmp_path)
    usage = Usage(lambda: [pool], libvirt=libvirtd.URI)
    with FaultOrigin({"/x.raw.xz": Resource.of(packed)}) as origin:
        wanted = Wanted(
            volume=VOLUME,
            sources=(origin.url("/x.raw.xz"),),
            options={"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"]},
            state=tmp_path / "engine",
        )
        with pytest.raises(LimitError, match="10485760 bytes"):
            asyncio.run(bring(pool, replace(wanted, max_virtual_size=9 * MIB), usage))
        assert disk_pool.listVolumes() == []
        done = asyncio.run(bring(pool, wanted, usage))
    assert done.virtual_size == 10 * MIB
    volume = disk_pool.storageVolLookupByName(done.install_path)
    assert volume.info()[1] == 10 * MIB
    with open(volume.path(), "rb") as device:
        assert device.read(10 * MIB) == content


@pytest.mark.parametrize("told", [4 * MIB, 20 * MIB])
def test_an_index_that_lies_fails_the_download(disk_pool: Any, tmp_path: Path, told: int) -> None:
    """The decoder compares what it unpacked with the index: no volume is left of it."""
    content = pseudo_random(1, 10 * MIB)
    packed = lzma.compress(content)
    pool = _find(disk_pool, tmp_path)
    with FaultOrigin({"/x.raw.xz": Resource.of(relabelled(packed, told))}) as origin:
        wanted = Wanted(
            volume=VOLUME,
            sources=(origin.url("/x.raw.xz"),),
            options={"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"]},
            state=tmp_path / "engine",
        )
        with pytest.raises(FastdlError) as failed:
            asyncio.run(bring(pool, wanted, Usage(lambda: [pool], libvirt=libvirtd.URI)))
    assert not failed.value.retryable
    assert disk_pool.listVolumes() == []


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_an_unsafe_image_leaves_no_partition(disk_pool: Any, tmp_path: Path) -> None:
    """The volume that was made for it is gone again."""
    image = tmp_path / "x.qcow2"
    images.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw"),
        *("-b", "/etc/passwd", image, "4M"),
    )
    pool = _find(disk_pool, tmp_path)
    with FaultOrigin({"/x.qcow2": Resource.of(image.read_bytes())}) as origin:
        wanted = Wanted(
            volume=VOLUME,
            sources=(origin.url("/x.qcow2"),),
            options={"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"]},
            state=tmp_path / "engine",
        )
        with pytest.raises(UnsafeImageError):
            asyncio.run(bring(pool, wanted, Usage(lambda: [pool], libvirt=libvirtd.URI)))
    assert disk_pool.listVolumes() == []
    assert pool.markers.read(VOLUME.name) is None


@pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="no qemu-nbd on this machine")
def test_an_export_takes_the_engines_bytes(tmp_path: Path) -> None:
    """The way to rbd images, with a file in the place of the cluster, encrypted so that the
    secret's own path is walked as well."""
    disk = tmp_path / "disk.luks"
    (tmp_path / "key").write_bytes(base64.b64encode(b"the cluster's key"))
    create = ("qemu-img", "create", "-q", "-f", "luks", "-o", "key-secret=key,iter-time=10")
    secret = ("--object", f"secret,id=key,format=base64,file={tmp_path}/key")
    for _ in range(20):  # it measures the processor, now and then in less than its clock shows
        made = subprocess.run(
            [*create, *secret, disk, "16M"], capture_output=True, text=True, check=False
        )
        if "accurate CPU usage" not in made.stderr:
            break
    assert made.returncode == 0, made.stderr
    content = pseudo_random(3, 5 * MIB + 512)
    options = {
        "driver": "luks",
        "key-secret": "key",
        "file": {"driver": "file", "filename": str(disk)},
    }
    with FaultOrigin({"/x.raw": Resource.of(content)}) as origin:
        with exported_node(options, secret=b"the cluster's key") as uri:
            fastdl.fetch_sync([origin.url("/x.raw")], uri, source_format="raw")
        with exported_node(options, secret=b"the cluster's key") as uri:
            images.run("nbdcopy", uri, tmp_path / "read")
    assert (tmp_path / "read").read_bytes()[: len(content)] == content


def test_a_volume_that_qemu_cannot_open_is_refused(tmp_path: Path) -> None:
    """In qemu's own words, and at once."""
    missing = {"driver": "file", "filename": str(tmp_path / "missing")}
    with pytest.raises(SinkRefusedError, match="No such file"), exported_node(missing):
        pass
