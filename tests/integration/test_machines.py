# SPDX-License-Identifier: Apache-2.0
"""Do virtual machines come, go and leave nothing, on a real libvirtd? At the agent's own level."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.listing import listing
from fastdl.agent.machines import console, disks
from fastdl.agent.machines.orders import Orders
from fastdl.agent.pools import DirectoryPool, Image, Marker, Pool, Usage, Volume, virt
from fastdl.agent.removal import remove
from fastdl.errors import (
    AgentRefusedError,
    Cancelled,
    FastdlError,
    SinkIOError,
    SinkRefusedError,
    SinkSpaceError,
    UsageError,
)
from fastdl.lab import guest
from fastdl.wire import messages as m
from tests.env import images, libvirtd
from tests.env.loopdev import loop_device
from tests.env.machines import enterable

MIB = 1 << 20
LINE = "THE GUEST IS UP"
TEMPLATE = str(uuid.UUID(int=51))
NEVER = threading.Event()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A libvirtd that can run machines."""
    with libvirtd.running(tmp_path_factory.mktemp("libvirtd")) as found:
        yield found


class Lab:
    """A pool with a template in it, and orders for machines."""

    def __init__(self, uri: str, folder: Path, pool: Pool) -> None:
        self.pool = pool
        self.state = folder / "state"
        self.orders = Orders(uri, self.state, kvm=False)
        self.usage = Usage(lambda: (pool,), libvirt=uri)
        self.libvirt = pytest.importorskip("libvirt").open(uri)
        self.made: list[m.MachineArgs] = []
        self.fence = 0

    def template(self, content: bytes, *, iso: bool = False, format_: str = "raw") -> str:
        """Put a finished copy of *content* into the pool; its volume."""
        volume = Volume(str(uuid.uuid4()) + (".iso" if iso else ""), iso=iso)
        with (
            self.pool.place(
                volume, Image(source_size=len(content), virtual_size=len(content), format="raw")
            ) as placement,
            open(placement.target, "r+b" if self.pool.raw_disks else "wb") as file,
        ):
            file.write(content)
        known = self.pool.markers.read(volume.name)
        marker = self.pool.seal(
            volume,
            Marker(
                volume=volume.name,
                handle=known.handle if known else "",
                complete=True,
                size=len(content),
                virtual_size=len(content),
                format=format_,
            ),
        )
        self.pool.markers.write(marker)
        self.pool.publish(volume, marker, replace=False)
        return volume.name

    def args(self, of: str, **given: Any) -> m.MachineArgs:
        """A deployment of a fresh machine from the copy *of*."""
        values: dict[str, Any] = {
            "machine": str(uuid.uuid4()), "state": "running", "pool": self.pool.id,
            "disk": str(uuid.uuid4()), "template": TEMPLATE, "volume": of,
            "memory": 64 * MIB, "first": True, "forced": True,
        }  # fmt: skip
        made = m.MachineArgs(**{**values, **given})
        self.made.append(made)
        return made

    def perform(self, args: m.MachineArgs, fence: int = 0, stop: Any = NEVER) -> m.MachineDone:
        """Carry out an order, under the next fence."""
        self.fence += 1
        return self.orders.perform(self.pool, args, fence=fence or self.fence, stop=stop)

    def again(self, args: m.MachineArgs, state: str) -> m.MachineDone:
        """Another order for the same machine."""
        values = {name: getattr(args, name) for name in args.__slots__}
        return self.perform(m.MachineArgs(**{**values, "state": state, "first": False}))

    def says(self, args: m.MachineArgs, line: str = LINE, times: int = 1) -> bool:
        """Wait until the guest has written *line* as often as that."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(FastdlError):
                if console.tail(self.state, args.machine, 4096).count(line) >= times:
                    return True
            time.sleep(0.1)
        return False

    def domains(self) -> set[str]:
        """The machines of this test that libvirt knows."""
        known = {domain.UUIDString() for domain in self.libvirt.listAllDomains()}
        return known & {args.machine for args in self.made}

    def volumes(self) -> set[str]:
        """What the pool has markers of."""
        return set(self.pool.markers.volumes())

    def end(self) -> None:
        """Remove every machine, however the test went."""
        self.fence += 1 << 40  # whatever a test ordered
        for args in self.made:
            with contextlib.suppress(FastdlError):
                self.again(args, "absent")
        self.libvirt.close()


@pytest.fixture(params=["files", "blocks"])
def lab(
    request: pytest.FixtureRequest, uri: str, tmp_path: Path, sealed_pools: Any
) -> Iterator[Lab]:
    """Each kind of pool that machines' disks can be in."""
    yield from sealed_pools(request.param)


@pytest.fixture
def files(sealed_pools: Any) -> Iterator[Lab]:
    """A pool of files."""
    yield from sealed_pools("files")


@pytest.fixture
def sealed_pools(uri: str, tmp_path: Path) -> Any:
    """Make a pool of a kind."""

    def make(kind: str) -> Iterator[Lab]:
        with contextlib.ExitStack() as held:
            if kind == "files":
                pool: Pool = DirectoryPool(held.enter_context(enterable()), name="p")
            else:
                pool = held.enter_context(_blocks(uri, tmp_path))
            made = Lab(uri, tmp_path, pool)
            held.callback(made.end)
            yield made

    return make


@contextlib.contextmanager
def _blocks(uri: str, folder: Path) -> Iterator[Pool]:
    """A libvirt pool of partitions."""
    libvirt: Any = pytest.importorskip("libvirt")
    with loop_device(folder, size=64 * MIB) as device, contextlib.ExitStack() as held:
        device.fill(0xA5)
        connection = libvirt.open(uri)
        held.callback(connection.close)
        name = libvirtd.new_name()
        pool = connection.storagePoolDefineXML(
            f"<pool type='disk'><name>{name}</name><source><device path='{device.path}'/>"
            f"<format type='gpt'/></source><target><path>/dev</path></target></pool>"
        )
        held.callback(pool.undefine)
        pool.build(libvirt.VIR_STORAGE_POOL_BUILD_OVERWRITE)
        pool.create()
        held.callback(pool.destroy)
        yield virt.find(pool.UUIDString(), uri=uri, state=folder / "state")


def test_a_machine_boots_and_goes(lab: Lab) -> None:
    """From its template to its line; stopped, started again, destroyed: nothing is left."""
    volume = lab.template(guest.disk(LINE))
    args = lab.args(volume, disk_size=3 * MIB)
    done = lab.perform(args)
    assert (done.state, done.missing, done.disk_size) == ("running", "", 3 * MIB)
    assert lab.says(args)
    disk = disks.existing(lab.pool, args.disk, args.machine)
    assert disk is not None
    if disk.device:
        content = disk.path.read_bytes()
        assert content[: 3 * MIB] == guest.disk(LINE, 3 * MIB)
        assert not any(content[3 * MIB :]), "a former owner's bytes are readable"
    assert lab.again(args, "stopped").state == "stopped"
    assert lab.again(args, "stopped").state == "stopped"
    assert lab.orders.known({lab.pool.id: lab.pool})[-1].running is False
    assert lab.again(args, "running").state == "running"
    assert lab.says(args, times=2)
    assert lab.again(args, "absent").state == "absent"
    assert lab.again(args, "absent").state == "absent"
    assert not lab.domains()
    assert lab.volumes() == {volume}
    assert not console.path(lab.state, args.machine).parent.exists()


def test_an_iso_boots(lab: Lab) -> None:
    """From its drive, beside an empty disk."""
    args = lab.args(lab.template(guest.iso(LINE), iso=True), iso=True, disk_size=2 * MIB)
    lab.perform(args)
    assert lab.says(args)
    disk = disks.existing(lab.pool, args.disk, args.machine)
    assert disk is not None
    if disk.device:
        assert not any(disk.path.read_bytes())


def test_an_order_may_be_repeated(lab: Lab) -> None:
    """The same deployment again changes nothing, and an older one is refused."""
    args = lab.args(lab.template(guest.disk(LINE)))
    lab.perform(args, fence=8)
    assert lab.perform(args, fence=8).state == "running"
    with pytest.raises(AgentRefusedError):
        lab.perform(args, fence=7)
    assert lab.domains() == {args.machine}


def test_what_a_machine_uses_is_kept(files: Lab) -> None:
    """Its template while it exists, running or not; its disk is no copy."""
    volume = files.template(guest.disk(LINE))
    args = files.args(volume)
    files.perform(args)
    files.again(args, "stopped")
    kept = asyncio.run(remove(files.pool, Volume(volume), files.usage))
    assert kept.kept
    assert any(args.disk in user or args.machine in user for user in kept.users)
    assert [one.volume for one in listing(files.pool, files.usage).copies] == [volume]
    with pytest.raises(SinkRefusedError, match="disk of the machine"):
        asyncio.run(remove(files.pool, Volume(args.disk), files.usage, forced=True))
    files.again(args, "absent")
    assert not asyncio.run(remove(files.pool, Volume(volume), files.usage)).kept


def test_without_its_template_nothing_is_made(lab: Lab) -> None:
    """The manager is told why, and has it downloaded."""
    args = lab.args(str(uuid.uuid4()))
    done = lab.perform(args)
    assert done.state == "absent"
    assert "no finished copy" in done.missing
    assert not lab.domains()
    assert not lab.volumes()


def test_a_changed_template_boots_nothing(files: Lab) -> None:
    """Somebody wrote to the copy: it is not what was verified."""
    volume = files.template(guest.disk(LINE))
    with (Path(files.pool.info().path) / volume).open("r+b") as file:
        file.write(b"x")
    done = files.perform(files.args(volume))
    assert "written to" in done.missing
    assert files.volumes() == {volume}


def test_a_deployment_that_fails_leaves_nothing(lab: Lab) -> None:
    """A machine larger than the host: libvirt accepts it, its start fails."""
    volume = lab.template(guest.disk(LINE))
    args = lab.args(volume, memory=1 << 52)
    with pytest.raises((SinkIOError, SinkRefusedError)):
        lab.perform(args)
    assert not lab.domains()
    assert lab.volumes() == {volume}
    assert not console.path(lab.state, args.machine).parent.exists()
    if isinstance(lab.pool, DirectoryPool):
        assert [p.name for p in lab.pool.path.iterdir() if p.name[0] != "."] == [volume]


def test_a_disk_that_does_not_fit(lab: Lab) -> None:
    """In pools where it takes its size at once."""
    if not lab.pool.raw_disks:
        pytest.skip("overlays take their size when it is written")
    volume = lab.template(guest.disk(LINE))
    with pytest.raises(SinkSpaceError):
        lab.perform(lab.args(volume, disk_size=1 << 30))
    assert lab.volumes() == {volume}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", ".hidden", "x\ny", "-"])
def test_hostile_names(files: Lab, name: str) -> None:
    """A name that leads out of the pool is refused before anything is touched."""
    volume = files.template(guest.disk(LINE))
    for given in ({"disk": name}, {"volume": name}, {"machine": name}):
        with pytest.raises((UsageError, SinkRefusedError)):
            files.perform(files.args(volume, **given))
    assert files.volumes() == {volume}


def test_hostile_titles(files: Lab) -> None:
    """Markup and control characters in a name are text, and nothing else."""
    title = "</title><devices>&x; \n\t\x1b[2J" + "é" * 300
    args = files.args(files.template(guest.disk(LINE)), name=title[:255])
    files.perform(args)
    found = files.libvirt.lookupByUUIDString(args.machine)
    said = found.metadata(1, None)
    assert said.startswith("</title><devices>&x; [2J")
    assert len(said) <= 255


def test_another_file_is_no_disk_of_ours(files: Lab) -> None:
    """Under the disk's name lies somebody's file: it is neither used nor removed."""
    args = files.args(files.template(guest.disk(LINE)))
    foreign = Path(files.pool.info().path) / args.disk
    foreign.write_text("somebody's")
    with pytest.raises(SinkRefusedError):
        files.perform(args)
    files.again(args, "absent")
    assert foreign.read_text() == "somebody's"
    assert not files.domains()


def test_a_machine_of_others_is_left_alone(files: Lab) -> None:
    """A domain with the same id that fastdl did not make."""
    args = files.args(files.template(guest.disk(LINE)))
    xml = (
        f"<domain type='qemu'><name>{libvirtd.new_name()}</name><uuid>{args.machine}</uuid>"
        "<memory>65536</memory><os><type>hvm</type></os></domain>"
    )
    theirs = files.libvirt.defineXML(xml)
    try:
        for state in ("running", "stopped", "absent"):
            with pytest.raises(SinkRefusedError, match="did not make"):
                files.again(args, state)
        assert theirs.name() in {one.name() for one in files.libvirt.listAllDomains()}
    finally:
        theirs.undefine()


def test_stopped_in_the_middle(lab: Lab) -> None:
    """The agent stops during a deployment; the next start of it finishes the order."""
    args = lab.args(lab.template(guest.disk(LINE)))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        lab.perform(args, stop=stop)
    assert lab.perform(args).state == "running"
    assert lab.says(args)


def test_formats_below_a_disk(files: Lab, tmp_path: Path) -> None:
    """A qcow2 template stays one; its machine's disk passes qemu's own check."""
    if not images.HAVE_QEMU:
        pytest.skip(images.NEED_QEMU)
    raw, made = tmp_path / "t.raw", tmp_path / "t.qcow2"
    raw.write_bytes(guest.disk(LINE))
    images.run("qemu-img", "convert", "-O", "qcow2", raw, made)
    volume = files.template(made.read_bytes(), format_="qcow2")
    marker = files.pool.markers.read(volume)
    assert marker is not None
    args = files.args(volume, disk_size=5 * MIB)
    files.perform(args)
    assert files.says(args)
    files.again(args, "stopped")
    disk = Path(files.pool.info().path) / args.disk
    subprocess.run(["qemu-img", "check", "-q", str(disk)], check=True, timeout=60)
