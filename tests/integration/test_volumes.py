# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl vol create`` make what virsh's vol-create and vol-upload would, on a libvirtd?"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fastdl import volumes
from fastdl.errors import Cancelled, SinkRefusedError, UsageError
from tests.env import images, libvirtd
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
DISK = 16 * MIB
RAW = pseudo_random(5, 3 * MIB + 512)
pytestmark = pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)


@pytest.fixture(scope="module")
def qcow2(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An image of a disk of 16 MiB."""
    folder = tmp_path_factory.mktemp("images")
    return images.build(folder / "x", images.Recipe(size=DISK, writes=20)).read_bytes()


@pytest.fixture
def site(qcow2: bytes) -> Iterator[FaultOrigin]:
    """The image in several forms, and the list of their digests."""
    content = {
        "/x.qcow2": qcow2,
        "/x.qcow2.gz": gzip.compress(qcow2),
        "/x.raw": RAW,
        "/x.raw.gz": gzip.compress(RAW),
    }
    sums = "".join(f"{_sha256(data)}  {name[1:]}\n" for name, data in content.items())
    found = {name: Resource.of(data) for name, data in content.items()}
    with FaultOrigin({**found, "/SHA256SUMS": Resource.of(sums.encode())}) as origin:
        yield origin


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _create(pool: Any, name: str, *words: str, home: Path, timeout: float = 60) -> Outcome:
    command = ["vol", "create", pool.name(), name, *words]
    return run_fastdl(command, home=home / "home", timeout=timeout)


def _made(pool: Any, name: str, *words: str, home: Path) -> dict[str, Any]:
    done = _create(pool, name, *words, "--json", home=home)
    assert done.code == 0, done
    return done.json


def _virsh(*words: str) -> str:
    return images.run("virsh", "-q", "-c", libvirtd.URI, *words).stdout


def _described(pool: Any, name: str) -> tuple[int, str, bool]:
    """(capacity, format, has a backing file), as virsh reports them."""
    found = ElementTree.fromstring(_virsh("vol-dumpxml", name, "--pool", pool.name()))
    kind = found.find("target/format")
    assert kind is not None
    backing = found.find("backingStore") is not None
    return int(found.findtext("capacity") or 0), str(kind.get("type")), backing


def _listed(pool: Any) -> list[str]:
    """The volumes as somebody sees them who lets libvirt look again."""
    _virsh("pool-refresh", pool.name())
    rows = [row.split() for row in _virsh("vol-list", pool.name()).splitlines() if row.strip()]
    # An agent of another test that offers libvirt's pools writes its note into this one.
    return sorted(name for name, path in rows if not _is_an_agents_note(Path(path)))


def _is_an_agents_note(path: Path) -> bool:
    return path.name == ".fastdl" and [found.name for found in path.iterdir()] == ["pool"]


def _disk(path: str, size: int, tmp_path: Path) -> bytes:
    """The first *size* bytes that a machine would read from the volume."""
    out = tmp_path / "disk"
    images.run("qemu-img", "convert", "-O", "raw", path, out)
    return out.read_bytes()[:size]


def _expected(qcow2: bytes, tmp_path: Path) -> bytes:
    (tmp_path / "origin.qcow2").write_bytes(qcow2)
    return _disk(str(tmp_path / "origin.qcow2"), DISK, tmp_path)


def test_a_qcow2_is_what_vol_upload_makes(
    dir_pool: Any, site: FaultOrigin, qcow2: bytes, tmp_path: Path
) -> None:
    """Capacity, format, backing file, owner and mode; and nothing else is in the pool."""
    (tmp_path / "x.qcow2").write_bytes(qcow2)
    _virsh("vol-create-as", dir_pool.name(), "theirs", str(DISK), "--format", "qcow2")
    _virsh("vol-upload", "theirs", str(tmp_path / "x.qcow2"), "--pool", dir_pool.name())
    checksum = ("--checksum", site.url("/SHA256SUMS"))
    made = _made(dir_pool, "ours", site.url("/x.qcow2"), *checksum, home=tmp_path)
    assert _listed(dir_pool) == ["ours", "theirs"]
    assert _described(dir_pool, "ours") == _described(dir_pool, "theirs") == (DISK, "qcow2", False)
    ours, theirs = Path(made["path"]), Path(made["path"]).with_name("theirs")
    assert ours.read_bytes() == qcow2
    for fact in ("st_mode", "st_uid", "st_gid"):
        assert getattr(ours.stat(), fact) == getattr(theirs.stat(), fact)
    assert (made["integrity"], made["capacity"], made["format"]) == ("strong", DISK, "qcow2")
    assert made["digests"]["sha-256"] == _sha256(qcow2)


def test_the_same_call_again_answers_at_once(
    dir_pool: Any, site: FaultOrigin, qcow2: bytes, tmp_path: Path
) -> None:
    """Without a byte of the image; what the machine wrote since does not matter."""
    url, digest = site.url("/x.qcow2"), f"sha-256:{_sha256(qcow2)}"
    _made(dir_pool, "vm", url, "--checksum", digest, home=tmp_path)
    asked = len(site.requests)
    for words in ([url], [url, "--checksum", digest], [site.url("/gone"), "--checksum", digest]):
        assert _made(dir_pool, "vm", *words, home=tmp_path)["already_present"]
    assert len(site.requests) == asked
    again = _made(dir_pool, "vm", url, "--checksum", site.url("/SHA256SUMS"), home=tmp_path)
    assert again["already_present"]
    images.run("qemu-io", "-c", "write 0 64k", Path(again["path"]))
    used = _made(dir_pool, "vm", url, "--checksum", digest, home=tmp_path)
    assert used["already_present"]
    assert "written to" in used["warnings"][0]


def test_another_image_under_the_name_is_refused(
    dir_pool: Any, site: FaultOrigin, qcow2: bytes, tmp_path: Path
) -> None:
    """Unless it may be replaced; the first one is whole until then."""
    _made(dir_pool, "vm", site.url("/x.qcow2"), home=tmp_path)
    other = (site.url("/x.raw"), "--checksum", f"sha-256:{_sha256(RAW)}")
    for words in (other, (other[0],), (site.url("/x.qcow2"), "--format", "raw")):
        refused = _create(dir_pool, "vm", *words, home=tmp_path)
        assert (refused.code, refused.classes) == (33, ["SINK_REFUSED"]), refused
    assert _described(dir_pool, "vm") == (DISK, "qcow2", False)
    made = _made(dir_pool, "vm", *other, "--overwrite", home=tmp_path)
    assert made["replaced"]
    assert Path(made["path"]).read_bytes() == RAW
    assert _described(dir_pool, "vm")[1] == "raw"
    assert _listed(dir_pool) == ["vm"]


def test_a_volume_in_use_is_not_replaced(
    connection: Any, dir_pool: Any, site: FaultOrigin, tmp_path: Path
) -> None:
    """Also that of a machine that is off."""
    made = _made(dir_pool, "vm", site.url("/x.qcow2"), home=tmp_path)
    name = libvirtd.new_name()
    domain = connection.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os>"
        f"<devices><disk type='file'><source file='{made['path']}'/><target dev='vda'/></disk>"
        "</devices></domain>"
    )
    try:
        words = (site.url("/x.raw"), "--overwrite")
        refused = _create(dir_pool, "vm", *words, home=tmp_path)
        assert (refused.code, refused.classes) == (32, ["SINK_BUSY"]), refused
        assert name in refused.stderr
    finally:
        domain.undefine()


def test_what_others_made_is_adopted_by_its_digest_alone(
    dir_pool: Any, site: FaultOrigin, qcow2: bytes, tmp_path: Path
) -> None:
    """A volume that virsh uploaded, or whose record is lost."""
    path = tmp_path / "dir" / "theirs"
    path.write_bytes(qcow2)
    unknown = _create(dir_pool, "theirs", site.url("/x.qcow2"), home=tmp_path)
    assert unknown.code == 33, unknown
    digest = f"sha-256:{_sha256(qcow2)}"
    words = (site.url("/x.qcow2"), "--checksum", digest)
    assert _made(dir_pool, "theirs", *words, home=tmp_path)["already_present"]
    path.write_bytes(RAW)
    shutil.rmtree(tmp_path / "home")
    assert _create(dir_pool, "theirs", *words, home=tmp_path).code == 33
    assert path.read_bytes() == RAW


@pytest.mark.parametrize("source", ["/x.qcow2", "/x.qcow2.gz", "/x.raw", "/x.raw.gz"])
@pytest.mark.parametrize("format_", ["same", "raw"])
@pytest.mark.parametrize("capacity", [None, 20 * MIB])
def test_forms_on_files(
    dir_pool: Any,
    site: FaultOrigin,
    qcow2: bytes,
    tmp_path: Path,
    source: str,
    format_: str,
    capacity: int | None,
) -> None:
    """Compression goes, the format stays unless another is wanted, the disk grows."""
    words = ["--format", format_]
    words += ["--capacity", str(capacity)] if capacity else []
    made = _made(dir_pool, "vm", site.url(source), *words, home=tmp_path)
    kept = "qcow2" if "qcow2" in source and format_ == "same" else "raw"
    disk = _expected(qcow2, tmp_path) if "qcow2" in source else RAW
    assert _described(dir_pool, "vm") == (capacity or len(disk), kept, False)
    assert (made["capacity"], made["format"]) == (capacity or len(disk), kept)
    assert _disk(made["path"], len(disk), tmp_path) == disk
    assert _listed(dir_pool) == ["vm"]
    again = _made(dir_pool, "vm", site.url(source), *words, home=tmp_path)
    assert again["already_present"]
    assert again["warnings"] == []


@pytest.mark.parametrize("source", ["/x.qcow2", "/x.qcow2.gz", "/x.raw", "/x.raw.gz"])
@pytest.mark.parametrize("capacity", [None, 20 * MIB])
@pytest.mark.parametrize("length", ["stated", "unknown"])
def test_forms_on_devices(
    disk_pool: Any,
    site: FaultOrigin,
    qcow2: bytes,
    tmp_path: Path,
    source: str,
    capacity: int | None,
    length: str,
) -> None:
    """Raw, in a volume of the disk's size, although nobody may know that before the last byte."""
    if length == "unknown":
        site.resources[source].rules.append(Rule(ignore_range=True, chunked="right"))
    words = ["--capacity", str(capacity)] if capacity else []
    made = _made(disk_pool, "vm", site.url(source), *words, home=tmp_path)
    disk = _expected(qcow2, tmp_path) if "qcow2" in source else RAW
    size = capacity or -(-len(disk) // MIB) * MIB
    assert _described(disk_pool, made["volume"])[0] == made["capacity"] == size
    assert made["format"] == "raw"
    with open(made["path"], "rb") as device:
        assert device.read(size) == disk + bytes(size - len(disk))
    assert _listed(disk_pool) == [made["volume"]]
    asked = len(site.requests)
    again = _made(disk_pool, "vm", site.url(source), *words, home=tmp_path)
    assert again["already_present"]
    assert len(site.requests) == asked
    assert not list((tmp_path / "home").rglob("*staging*/*"))


def test_a_mounted_file_system_and_a_full_one(
    define: Any, loopdev: Path, site: FaultOrigin, tmp_path: Path
) -> None:
    """fs pools; no room is told with its own class, whether it is known before or not."""
    images.run("mkfs.ext4", "-q", loopdev)
    mount = tmp_path / "mount"
    mount.mkdir()
    pool = define(
        f"<pool type='fs'><name>{libvirtd.new_name()}</name><source><device path='{loopdev}'/>"
        f"<format type='ext4'/></source><target><path>{mount}</path></target></pool>"
    )
    assert _made(pool, "vm", site.url("/x.qcow2"), home=tmp_path)["capacity"] == DISK
    big = Resource.of(pseudo_random(9, 70 * MIB))
    site.resources["/big"] = big
    for rules in ([], [Rule(ignore_range=True, chunked="right")]):
        big.rules[:] = rules
        full = _create(pool, "big", site.url("/big"), home=tmp_path)
        assert (full.code, full.classes) == (30, ["SINK_SPACE"]), full
        pool.refresh()
        assert "big" not in pool.listVolumes()


def test_a_pool_that_cannot_be_used_is_named(
    dir_pool: Any, disk_pool: Any, site: FaultOrigin, tmp_path: Path
) -> None:
    """Absent, not active, of another host, full: each with its class."""
    url, home = site.url("/x.raw"), tmp_path / "home"
    absent = run_fastdl(["vol", "create", "no-such-pool", "vm", url], home=home)
    assert (absent.code, absent.classes) == (33, ["SINK_REFUSED"]), absent
    by_id = run_fastdl(["vol", "create", dir_pool.UUIDString(), "vm", url], home=home)
    assert by_id.code == 0, by_id
    dir_pool.destroy()
    stopped = _create(dir_pool, "other", url, home=tmp_path)
    assert (stopped.code, stopped.classes) == (33, ["SINK_REFUSED"]), stopped
    assert "pool-start" in stopped.stderr
    remote = _create(dir_pool, "x", url, "--connect", "qemu+ssh://a/system", home=tmp_path)
    assert (remote.code, remote.classes) == (2, ["USAGE"]), remote
    gone = _create(dir_pool, "x", url, "--connect", f"qemu+unix:///system?socket={tmp_path}/no",
                   home=tmp_path)  # fmt: skip
    assert gone.code in {31, 33}, gone
    full = _create(disk_pool, "x", url, "--capacity", "1G", home=tmp_path)
    assert (full.code, full.classes) == (30, ["SINK_SPACE"]), full
    assert _listed(disk_pool) == []


def test_an_unsafe_image_and_a_wrong_one_leave_nothing(
    dir_pool: Any, disk_pool: Any, site: FaultOrigin, tmp_path: Path
) -> None:
    """A backing file is refused as by every verb."""
    image = tmp_path / "overlay"
    images.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw"),
        *("-b", "/etc/passwd", image, "4M"),
    )
    site.resources["/overlay"] = Resource.of(image.read_bytes())
    wrong = (site.url("/x.raw"), "--checksum", f"sha-256:{'0' * 64}")
    for pool in (dir_pool, disk_pool):
        for words, code in (((site.url("/overlay"),), 24), (wrong, 21), ((site.url("/no"),), 11)):
            failed = _create(pool, "vm", *words, home=tmp_path)
            assert failed.code == code, failed
            assert _listed(pool) == []
    small = _create(dir_pool, "vm", site.url("/x.qcow2"), "--capacity", "1M", home=tmp_path)
    assert (small.code, small.classes) == (2, ["USAGE"]), small
    assert _listed(dir_pool) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["dir", "disk"])
def test_whatever_ends_it_there_is_no_half_volume(
    dir_pool: Any,
    disk_pool: Any,
    tmp_path: Path,
    kind: str,
    number: signal.Signals,
) -> None:
    """The same command finishes it then, with what was fetched where that could be kept."""
    pool = dir_pool if kind == "dir" else disk_pool
    content = pseudo_random(6, 12 * MIB)
    rules = [Rule(rate=3 * MIB)]
    with FaultOrigin({"/x.raw": Resource.of(content, rules=rules)}) as origin:
        half = threading.Event()
        origin.on_sent = lambda sent: half.set() if sent > 4 * MIB else None
        command = ["vol", "create", pool.name(), "vm", origin.url("/x.raw")]
        command += ["--checksum", f"sha-256:{_sha256(content)}"]
        with running_fastdl(command, home=tmp_path / "home") as run:
            assert half.wait(30)
            run.send(number)
            ended = run.finish(timeout=20)
        assert ended.code == (130 if number == signal.SIGINT else -9), ended
        _virsh("pool-refresh", pool.name())
        if kind == "dir":
            assert "vm" not in pool.listVolumes()
        elif number == signal.SIGINT:
            assert pool.listVolumes() == []
        else:  # nobody was left to delete it: it looks like no disk
            left = pool.storageVolLookupByName(pool.listVolumes()[0])
            with open(left.path(), "rb") as device:
                assert device.read(MIB) == bytes(MIB)
        rules.clear()
        made = _made(pool, "vm", *command[4:], home=tmp_path)
        assert made["resumed_bytes"] > 0 or (kind, number) == ("disk", signal.SIGINT)
    with open(made["path"], "rb") as file:
        assert file.read(len(content)) == content
    assert _listed(pool) == [made["volume"]]


@pytest.mark.parametrize("call", ["fsync", "rename,renameat,renameat2"])
@pytest.mark.parametrize("kind", ["dir", "disk"])
def test_a_kill_at_any_call_of_the_system_is_healed(
    dir_pool: Any, disk_pool: Any, site: FaultOrigin, tmp_path: Path, kind: str, call: str
) -> None:
    """Killed at each of its durable steps: what is listed is whole, and nothing is left over."""
    if not shutil.which("strace"):
        pytest.skip("no strace on this machine")
    pool = dir_pool if kind == "dir" else disk_pool
    command = ["vol", "create", pool.name(), "vm", site.url("/x.raw")]
    command += ["--checksum", f"sha-256:{_sha256(RAW)}", "--capacity", str(8 * MIB)]
    for nth in range(1, 16):
        prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        prefix += ["-e", f"inject={call}:signal=SIGKILL:when={nth}"]
        ended = run_fastdl(command, home=tmp_path / "home", prefix=prefix)
        if ended.code == 0:
            break
        _virsh("pool-refresh", pool.name())
        if kind == "dir" and "vm" in pool.listVolumes():
            data = (tmp_path / "dir" / "vm").read_bytes()
            assert data == RAW + bytes(len(data) - len(RAW))
    assert nth > 1
    made = _made(pool, "vm", *command[4:], home=tmp_path)
    assert made["capacity"] == 8 * MIB
    with open(made["path"], "rb") as file:
        assert file.read(8 * MIB) == RAW + bytes(8 * MIB - len(RAW))
    assert _listed(pool) == [made["volume"]]


def test_two_at_once_make_one(dir_pool: Any, tmp_path: Path) -> None:
    """The second says that it is in the making, for as long as the first one runs."""
    rules = [Rule(rate=2e5)]
    with FaultOrigin({"/x.raw": Resource.of(RAW, rules=rules)}) as origin:
        begun = threading.Event()
        origin.on_sent = lambda sent: begun.set() if sent > MIB // 2 else None
        command = ["vol", "create", dir_pool.name(), "vm", origin.url("/x.raw")]
        with running_fastdl(command, home=tmp_path / "home") as run:
            assert begun.wait(30)
            second = run_fastdl(command, home=tmp_path / "home")
            assert (second.code, second.classes) == (32, ["SINK_BUSY"]), second
            run.send(signal.SIGINT)
            assert run.finish(timeout=30).code == 130
        rules.clear()
        assert run_fastdl(command, home=tmp_path / "home").code == 0
    assert _listed(dir_pool) == ["vm"]


def test_the_function_does_the_same(dir_pool: Any, site: FaultOrigin, tmp_path: Path) -> None:
    """Blocking, also where a loop runs; and for asyncio, where a cancelled task ends it."""
    state, seen = tmp_path / "state", []
    name = dir_pool.name()

    def create(volume: str, **more: Any) -> volumes.Made:
        return volumes.create(name, volume, site.url("/x.qcow2"), state=state, **more)

    made = create("a", progress=lambda now: seen.append(now.stage))
    assert (made.volume, made.capacity, made.already_present) == ("a", DISK, False)
    assert seen

    async def inside() -> None:
        assert create("a").already_present
        other = await volumes.create_async(name, "b", site.url("/x.raw"), state=state)
        assert other.format == "raw"
        slow = Resource.of(pseudo_random(8, 8 * MIB), rules=[Rule(rate=MIB)])
        site.resources["/slow"] = slow
        task = asyncio.create_task(volumes.create_async(name, "c", site.url("/slow"), state=state))
        while site.sent < len(RAW) + MIB:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await task

    asyncio.run(inside())
    assert "c" not in dir_pool.listVolumes()
    with pytest.raises(SinkRefusedError, match="another format or capacity"):
        create("a", capacity=DISK + MIB)
    for bad in (
        {"format": "vmdk"},
        {"capacity": 0},
        {"capacity": "40G"},
        {"overwrite": True, "zero_rest": True},
    ):
        with pytest.raises(UsageError):
            create("a", **bad)
    for wrong in ("../x", ".hidden", "", "a/b", "n\xe4me"):
        with pytest.raises(UsageError, match="letters"):
            create(wrong)


def test_many_at_once_leave_no_hidden_folder(
    dir_pool: Any, site: FaultOrigin, tmp_path: Path
) -> None:
    """The folder above them goes with the last one."""
    names = [f"v{n}" for n in range(6)]

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(
                    volumes.create_async(
                        dir_pool.name(), name, site.url("/x.raw"), state=tmp_path / "state"
                    )
                )

    asyncio.run(all_of_them())
    assert _listed(dir_pool) == names


def test_options_of_get(dir_pool: Any, tmp_path: Path) -> None:
    """Mirrors, headers, progress and a log, as for a file."""
    broken = Rule(when=When(first_nth=2), status=500)
    with (
        FaultOrigin({"/x": Resource.of(RAW)}) as good,
        FaultOrigin({"/x": Resource.of(RAW)}) as bad,
    ):
        bad.resources["/x"].rules.append(broken)
        done = _create(
            dir_pool, "vm", bad.url("/x"), good.url("/x"), "-v", "--json", "--progress", "json",
            "-H", "X-Who: me", "--checksum", f"sha-256:{_sha256(RAW)}", home=tmp_path,
        )  # fmt: skip
        assert done.code == 0, done
        assert all(request.fields["x-who"] == "me" for request in good.requests)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {event["file"] for event in events} == {f"{dir_pool.name()}/vm"}
    assert "GET" in done.stderr
    assert len(done.json["mirrors"]) == 2
