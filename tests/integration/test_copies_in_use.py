# SPDX-License-Identifier: Apache-2.0
"""Is a copy kept for as long as somebody uses it, whoever that is? Real qemu, libvirt, devices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.pools import (
    DevicePool,
    DirectoryPool,
    Image,
    Marker,
    Pool,
    Usage,
    Volume,
    domains,
    virt,
)
from fastdl.agent.removal import remove
from fastdl.agent.templates import Wanted, bring
from fastdl.errors import SinkBusyError
from fastdl.wire.messages import DownloadDone, RemoveDone
from tests.env import guests, images, libvirtd, signed
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(31, MIB)
VOLUME = Volume(str(uuid.UUID(int=31)))
NOWHERE = "test:///default"
"""A libvirt that knows no domain of this host."""


def publish(pool: Pool, volume: Volume = VOLUME, content: bytes = CONTENT) -> Path:
    """Put a finished copy into *pool*, as a download leaves it; its path."""
    with pool.place(volume, Image(source_size=len(content), format="raw")) as placement:
        fd = os.open(placement.target, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, content)
        os.fsync(fd)
        os.close(fd)
    known = pool.markers.read(volume.name)
    marker = Marker(
        volume=volume.name, complete=True, size=len(content), handle=known.handle if known else ""
    )
    marker = pool.seal(volume, marker)
    pool.markers.write(marker)
    pool.publish(volume, marker, replace=False)
    path = pool.target(volume, marker).path
    assert path is not None
    return path


def removal(pool: Pool, *others: Pool, forced: bool = False, libvirt: str = NOWHERE) -> RemoveDone:
    """Try to remove the copy, on a host that has *others* too."""
    usage = Usage(lambda: (pool, *others), libvirt=libvirt)
    return asyncio.run(remove(pool, VOLUME, usage, forced=forced))


@pytest.fixture
def pool(tmp_path: Path) -> DirectoryPool:
    """A pool that is a folder, with the finished copy in it."""
    (tmp_path / "pool").mkdir()
    made = DirectoryPool(tmp_path / "pool", name="p")
    publish(made)
    return made


def test_a_copy_that_nobody_uses_goes(pool: DirectoryPool) -> None:
    """The file, its marker, and what is hidden of it."""
    assert removal(pool) == RemoveDone()
    assert [p.name for p in pool.path.iterdir()] == [".fastdl"]
    assert removal(pool) == RemoveDone(was_present=False)


@pytest.mark.parametrize("kind", ["qcow2", "qed"])
@pytest.mark.parametrize("name", ["relative", "absolute", "json", "file:", "elsewhere"])
def test_a_linked_clone_keeps_its_template(pool: DirectoryPool, kind: str, name: str) -> None:
    """Stopped machines too: the name in the clone's header is all that is left of them."""
    path = pool.path / VOLUME.name
    spelled = {
        "relative": VOLUME.name,
        "absolute": str(path),
        "json": "json:"
        + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(path)}}),
        "file:": f"file:{path}",
        "elsewhere": f"/mnt/of-another-host/{VOLUME.name}",
    }[name]
    clone = guests.overlay(pool.path / "vm-disk", spelled, kind=kind)
    done = removal(pool)
    assert done.kept
    assert done.users == (f"image {clone}",)
    assert str(clone) in done.reason
    assert path.read_bytes() == CONTENT
    clone.unlink()
    assert removal(pool) == RemoveDone()


def test_a_chain_keeps_what_is_at_its_end(pool: DirectoryPool, tmp_path: Path) -> None:
    """A snapshot names the clone, and only the clone, out of the pool, names the template."""
    (tmp_path / "other").mkdir()
    middle = guests.overlay(tmp_path / "other" / "clone", pool.path / VOLUME.name)
    top = guests.overlay(pool.path / "snapshot", middle, base_kind="qcow2")
    assert removal(pool).users == (f"image {top}",)


def test_an_image_in_another_pool_counts(pool: DirectoryPool, tmp_path: Path) -> None:
    """Disks need not lie beside their template."""
    (tmp_path / "other").mkdir()
    other = DirectoryPool(tmp_path / "other", name="o")
    clone = guests.overlay(other.path / "disk", pool.path / VOLUME.name)
    assert removal(pool, other).users == (f"image {clone}",)


def test_a_data_file_counts(tmp_path: Path) -> None:
    """A qcow2 may keep its guest's bytes in a raw file of another name."""
    pool, path = DirectoryPool(tmp_path, name="p"), tmp_path / VOLUME.name
    images.run(
        *("qemu-img", "create", "-q", "-f", "qcow2"),
        *("-o", f"data_file={path},data_file_raw=on", tmp_path / "disk", "1M"),
    )
    path.unlink()
    publish(pool)
    assert removal(pool).users == (f"image {tmp_path}/disk",)


def test_a_program_that_has_it_open_keeps_it(pool: DirectoryPool) -> None:
    """qemu's lock on the file, and the process that holds it by name."""
    with guests.storage_daemon(pool.path / VOLUME.name) as pid:
        done = removal(pool)
        assert done.kept
        assert done.users == (f"process qemu-storage-da (pid {pid})",)
    assert removal(pool) == RemoveDone()


def test_a_running_machine_keeps_the_template_of_its_disk(
    pool: DirectoryPool, tmp_path: Path
) -> None:
    """Its disk lies where nobody looks; the machine has the template open."""
    disk = guests.overlay(tmp_path / "disk", pool.path / VOLUME.name)
    with guests.machine(disk) as pid:
        assert f"process qemu-system-x86 (pid {pid})" in removal(pool).users


def test_a_loop_device_keeps_it(pool: DirectoryPool) -> None:
    """Mounted for a look inside, or exported."""
    done = subprocess.run(
        ["losetup", "--find", "--show", "--read-only", pool.path / VOLUME.name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        name = done.stdout.strip().removeprefix("/dev/")
        assert removal(pool).users == (f"the kernel: loop device {name}",)
    finally:
        subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def test_a_file_that_cannot_be_checked_may_be_a_clone(
    pool: DirectoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot read an image cannot say that it needs no other."""
    (pool.path / "odd").write_bytes(b"QFI\xfb")
    real = os.pread

    def failing(fd: int, length: int, at: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink().name == "odd":
            raise OSError(5, "Input/output error")
        return real(fd, length, at)

    monkeypatch.setattr(os, "pread", failing)
    done = removal(pool)
    assert done.kept
    assert "cannot be read" in done.reason


def test_odd_files_in_a_pool_are_no_obstacle(pool: DirectoryPool) -> None:
    """A FIFO nobody writes to, a loop of links, headers that lie about themselves."""
    os.mkfifo(pool.path / "fifo")
    (pool.path / "loop").symlink_to("loop")
    (pool.path / "short").write_bytes(b"QFI\xfb\0\0\0\3")
    (pool.path / "lies").write_bytes(b"QFI\xfb" + b"\xff" * 200)
    guests.overlay(pool.path / "hen", "egg")
    guests.overlay(pool.path / "egg", "hen")
    assert removal(pool) == RemoveDone()


def test_forced_removes_what_is_in_use(pool: DirectoryPool) -> None:
    """The administrator's word."""
    guests.overlay(pool.path / "vm-disk", VOLUME.name)
    assert removal(pool, forced=True) == RemoveDone()
    assert not (pool.path / VOLUME.name).exists()


def test_who_begins_to_use_it_meanwhile_keeps_it(
    pool: DirectoryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deletion a machine may be cloned: it is looked for once more."""
    looks = []
    real = Usage.of

    def cloning(self: Usage, target: Any) -> tuple[str, ...]:
        found = real(self, target)
        if not looks:
            guests.overlay(pool.path / "vm-disk", VOLUME.name)
        looks.append(found)
        return found

    monkeypatch.setattr(Usage, "of", cloning)
    assert removal(pool).kept
    assert len(looks) == 2
    assert looks[0] == ()
    assert (pool.path / VOLUME.name).read_bytes() == CONTENT


def test_a_copy_on_its_way_out_is_found_again(pool: DirectoryPool) -> None:
    """The agent died between hiding the file and deciding about it."""
    going = pool.path / ".fastdl" / "going"
    going.mkdir()
    (pool.path / VOLUME.name).rename(going / VOLUME.name)
    clone = guests.overlay(pool.path / "vm-disk", VOLUME.name)
    assert removal(pool).users == (f"image {clone}",)
    assert (pool.path / VOLUME.name).read_bytes() == CONTENT


# --- libvirt ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A connection to a running libvirtd."""
    with libvirtd.running(tmp_path_factory.mktemp("libvirtd")) as uri:
        conn = pytest.importorskip("libvirt").open(uri)
        yield conn
        conn.close()


@pytest.fixture
def domain(connection: Any) -> Iterator[Any]:
    """Define domains with one disk; forget them at the end."""
    made: list[Any] = []

    def one(source: str, *, kind: str = "file", device: str = "disk") -> Any:
        name = libvirtd.new_name()
        target = "hda" if device == "disk" else "hdc"
        made.append(
            connection.defineXML(
                f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>"
                f"<os><type arch='x86_64'>hvm</type></os><devices><disk type='{kind}' "
                f"device='{device}'><driver name='qemu' type='qcow2'/><source {source}/>"
                f"<target dev='{target}' bus='ide'/></disk></devices></domain>"
            )
        )
        return made[-1]

    yield one
    libvirt = pytest.importorskip("libvirt")
    for each in made:
        with contextlib.suppress(libvirt.libvirtError):
            each.undefine()


def test_a_stopped_domain_keeps_the_template_of_its_disk(
    pool: DirectoryPool, tmp_path: Path, domain: Any
) -> None:
    """Its disk lies in a folder that is nobody's pool: libvirt alone knows of it."""
    disk = guests.overlay(tmp_path / "disk", pool.path / VOLUME.name)
    vm = domain(f"file='{disk}'")
    assert removal(pool, libvirt=libvirtd.URI).users == (f"domain {vm.name()}",)
    vm.undefine()
    assert removal(pool, libvirt=libvirtd.URI) == RemoveDone()


def test_a_disk_or_a_cd_that_is_the_copy_itself_counts(pool: DirectoryPool, domain: Any) -> None:
    """An ISO in the drive of a stopped machine."""
    vm = domain(f"file='{pool.path / VOLUME.name}'", device="cdrom")
    assert removal(pool, libvirt=libvirtd.URI).users == (f"domain {vm.name()}",)


def test_a_volume_named_by_its_pool_counts(connection: Any, domain: Any, tmp_path: Path) -> None:
    """libvirt's own way to name a disk, in a real pool of its own."""
    (tmp_path / "dir").mkdir()
    name = libvirtd.new_name()
    made = connection.storagePoolDefineXML(
        f"<pool type='dir'><name>{name}</name><target><path>{tmp_path}/dir</path></target></pool>"
    )
    made.create()
    try:
        pool = virt.find(made.UUIDString(), uri=libvirtd.URI, state=tmp_path / "state")
        publish(pool)
        vm = domain(f"pool='{name}' volume='{VOLUME.name}'", kind="volume")
        assert removal(pool, libvirt=libvirtd.URI).users == (f"domain {vm.name()}",)
        assert made.storageVolLookupByName(VOLUME.name) is not None
        assert removal(pool, libvirt=libvirtd.URI, forced=True) == RemoveDone()
    finally:
        made.destroy()
        made.undefine()


def test_a_snapshot_keeps_what_it_goes_back_to(
    pool: DirectoryPool, tmp_path: Path, domain: Any
) -> None:
    """The domain's disk names the template no more; its snapshot does."""
    libvirt = pytest.importorskip("libvirt")
    before = guests.overlay(tmp_path / "before", pool.path / VOLUME.name)
    vm = domain(f"file='{before}'")
    snapshot = (
        "<domainsnapshot><name>s1</name><disks><disk name='hda' snapshot='external' "
        f"type='file'><source file='{tmp_path}/after'/></disk></disks></domainsnapshot>"
    )
    vm.snapshotCreateXML(snapshot, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    after = tmp_path / "after"
    after.unlink()
    images.run("qemu-img", "create", "-q", "-f", "qcow2", after, "8M")
    try:
        assert removal(pool, libvirt=libvirtd.URI).users == (f"domain {vm.name()}",)
    finally:
        vm.snapshotLookupByName("s1").delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def test_a_libvirt_that_does_not_answer_keeps_everything(
    pool: DirectoryPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has domains, as its folder shows, and nobody can ask it which."""
    (tmp_path / "vm1.xml").write_text("<domain/>")
    monkeypatch.setattr(domains, "_DEFINED", (tmp_path,))
    with pytest.raises(SinkBusyError, match="cannot determine"):
        removal(pool, libvirt="qemu+unix:///system?socket=/nonexistent")
    monkeypatch.setattr(domains, "_DEFINED", (tmp_path / "none",))
    assert removal(pool, libvirt="qemu+unix:///system?socket=/nonexistent") == RemoveDone()


# --- devices ---------------------------------------------------------------------------------


@pytest.fixture
def device_pool(tmp_path: Path) -> Iterator[DevicePool]:
    """A pool that is a loop device, with the finished copy on it."""
    with loop_device(tmp_path, size=8 * MIB) as found:
        made = DevicePool(Path(found.path), name="d", host_id="h", state=tmp_path / "state")
        publish(made)
        yield made


def test_a_device_that_is_open_is_kept(device_pool: DevicePool, tmp_path: Path) -> None:
    """A machine has it as its disk, or an image names it."""
    with guests.storage_daemon(device_pool.path, driver="host_device") as pid:
        done = removal(device_pool)
        assert done.kept
        assert f"process qemu-storage-da (pid {pid})" in done.users
    (tmp_path / "other").mkdir()
    other = DirectoryPool(tmp_path / "other", name="o")
    clone = guests.overlay(other.path / "disk", device_pool.path)
    assert removal(device_pool, other).users == (f"image {clone}",)
    clone.unlink()
    assert removal(device_pool, other) == RemoveDone()
    assert device_pool.path.open("rb").read(MIB) == bytes(MIB)


def test_a_domain_keeps_a_device(device_pool: DevicePool, domain: Any) -> None:
    """By the device's name in its description."""
    vm = domain(f"dev='{device_pool.path}'", kind="block")
    assert removal(device_pool, libvirt=libvirtd.URI).users == (f"domain {vm.name()}",)


def test_a_device_that_is_something_else_by_now_is_left_alone(
    device_pool: DevicePool, tmp_path: Path
) -> None:
    """Somebody made a file system on it: zeroing its edges would be the end of that."""
    subprocess.run(["mkfs.ext4", "-q", "-F", device_pool.path], check=True, capture_output=True)
    done = removal(device_pool)
    assert done.kept
    assert "written to" in done.reason
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", device_pool.path, mount], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(SinkBusyError):
            removal(device_pool, forced=True)
    finally:
        subprocess.run(["umount", mount], check=True)
    assert removal(device_pool, forced=True) == RemoveDone()


# --- replacing -------------------------------------------------------------------------------


def fetch(pool: Pool, url: str) -> DownloadDone:
    """Bring the template to the pool (again)."""
    options = {"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"], "source_format": "raw"}
    wanted = Wanted(volume=VOLUME, sources=(url,), options=options)
    return asyncio.run(bring(pool, wanted, Usage(lambda: [pool], libvirt=NOWHERE)))


def test_a_copy_that_was_cut_short_is_repaired_when_nobody_uses_it(tmp_path: Path) -> None:
    """By the same command that brought it; while a machine has it open it stays as it is."""
    pool = DirectoryPool(tmp_path, name="p")
    with FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin:
        first = fetch(pool, origin.url("/x.raw"))
        path = tmp_path / first.install_path
        os.truncate(path, 4096)
        with guests.storage_daemon(path), pytest.raises(SinkBusyError, match="qemu-storage"):
            fetch(pool, origin.url("/x.raw"))
        assert path.stat().st_size == 4096
        again = fetch(pool, origin.url("/x.raw"))
        assert "4096 bytes" in again.replaced
        assert path.read_bytes() == CONTENT
        assert fetch(pool, origin.url("/x.raw")).already_present


def test_a_device_whose_copy_was_damaged_is_written_anew(tmp_path: Path) -> None:
    """Its old signature is ours to overwrite: the marker says so."""
    with (
        loop_device(tmp_path, size=8 * MIB) as found,
        FaultOrigin({"/x.raw": Resource.of(CONTENT)}) as origin,
    ):
        pool = DevicePool(Path(found.path), name="d", host_id="h", state=tmp_path / "state")
        fetch(pool, origin.url("/x.raw"))
        subprocess.run(["mkswap", found.path], check=True, capture_output=True)
        assert "written to" in fetch(pool, origin.url("/x.raw")).replaced
        assert found.read(MIB) == CONTENT
        assert fetch(pool, origin.url("/x.raw")).already_present


@pytest.mark.parametrize("kind", sorted(signed.MAKERS))
def test_a_device_pool_takes_what_an_agent_left_that_died_before_its_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The image is on the device, its own signature too, and nothing says that it is ours but the
    note of the download."""
    content = signed.signed(kind, 4 * MIB)

    def dies(*_: object) -> Marker:
        raise KeyboardInterrupt

    with (
        loop_device(tmp_path, size=8 * MIB) as found,
        FaultOrigin({"/x.raw": Resource.of(content)}) as origin,
    ):
        pool = DevicePool(Path(found.path), name="d", host_id="h", state=tmp_path / "state")
        options = {"policy": "strict", "allowed_cidrs": ["127.0.0.0/8"]}
        wanted = Wanted(
            volume=VOLUME,
            sources=(origin.url("/x.raw"),),
            options=options,
            state=tmp_path / "state",
        )
        usage = Usage(lambda: [pool], libvirt=NOWHERE)
        with monkeypatch.context() as patch:
            patch.setattr(pool, "seal", dies)
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(bring(pool, wanted, usage))
        assert found.read(len(content)) == content
        done = asyncio.run(bring(pool, wanted, usage))
        assert done.fetched_bytes == 0
        assert found.read(len(content)) == content
        other = Wanted(
            volume=Volume(str(uuid.UUID(int=32))),
            sources=(origin.url("/x.raw"),),
            options=options,
            state=tmp_path / "state",
        )
        with pytest.raises(SinkBusyError):  # the marker says whose the device is
            asyncio.run(bring(pool, other, usage))
