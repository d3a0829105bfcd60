# SPDX-License-Identifier: Apache-2.0
"""Does a download that is confined in full still land on everything that it has to land on?

The agent's worker does the work, on a host that refuses whatever is not fully confined.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.confine import Confinement, landlock_version
from fastdl.agent.work import Work, run
from fastdl.engine.staging import SUFFIX, path_beside
from fastdl.errors import (
    FormatError,
    IntegrityError,
    InternalError,
    SinkBusyError,
    SinkRefusedError,
    TrustError,
    UnsafeImageError,
)
from tests.env import nbd
from tests.env.certs import CertLab
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build, fill_raw
from tests.env.images import run as run_tool
from tests.env.landing import DEVICE, PACK, PATTERN, raw_of, sha256
from tests.env.loopdev import LoopDevice, loop_device
from tests.env.origin import FaultOrigin, Resource, pseudo_random

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user"),
    pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock"),
]

FULL = Confinement(required=True)
CONTENT = pseudo_random(3, 12 * MIB + 700)
DRIP = Rule(rate=2e6)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin without content yet."""
    with FaultOrigin({}) as found:
        yield found


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    """A block device that held something else."""
    with loop_device(tmp_path, size=DEVICE) as found:
        found.fill(PATTERN)
        yield found


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A folder that no user but root may enter, as some operators have them."""
    made = tmp_path / "pool"
    made.mkdir(mode=0o700)
    return made


def _work(
    origin: FaultOrigin, content: bytes, target: Path | str, *rules: Rule, **options: Any
) -> Work:
    """Land *content*, as ``templates`` asks for it; ``action`` may be given too."""
    origin.resources["/x"] = Resource.of(content, rules=list(rules))
    action = options.pop("action", "fetch")
    beneath = options.pop("beneath", None)
    state = str(options.pop("state", "/nonexistent"))
    return Work(
        action=action,
        sources=(origin.url("/x"),),
        target=str(target),
        checksum=options.pop("checksum", f"sha-256:{sha256(content)}"),
        options={
            "policy": "user",
            "target_format": "same",
            **options,
        },
        placement={
            "beneath": beneath and str(beneath),
            "state_dir": state,
        },
    )


async def _done(work: Work) -> dict[str, Any]:
    return await run(work, confinement=FULL, deadline=60)


async def _cancelled(work: Work, origin: FaultOrigin, after: int) -> None:
    """Have *work* done until *after* bytes have been sent, then cancel it."""
    job = asyncio.create_task(_done(work))
    await asyncio.to_thread(origin.wait_for, lambda: origin.sent > after)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


def _kept(state: Path) -> list[str]:
    """The kinds of files in *state*: after success, the note of what a device shows alone."""
    return [path.suffix for path in state.rglob("*") if path.is_file()]


def _left(pool: Path) -> list[str]:
    return sorted(os.listdir(pool))


async def test_a_file_in_a_pool_that_only_root_may_enter(origin: FaultOrigin, pool: Path) -> None:
    """Root opens, root publishes; who reads the origin needs no way there."""
    result = await _done(_work(origin, CONTENT, pool / "x", beneath=pool, source_format="raw"))
    assert (pool / "x").read_bytes() == CONTENT
    found = (pool / "x").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (0, 0, 0o644)
    assert _left(pool) == ["x"]
    assert (result["target_bytes"], result["virtual_size"]) == (len(CONTENT), len(CONTENT))
    assert result["integrity"] == "strong"
    assert not result["already_present"]


async def test_a_file_that_is_there_already_is_compared(
    origin: FaultOrigin, pool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through a descriptor for reading; another content is refused as ever. Which file it is
    stands in the agent's log: what a confined process says of the host goes nowhere else."""
    (pool / "x").write_bytes(CONTENT)
    result = await _done(_work(origin, CONTENT, pool / "x", beneath=pool))
    assert result["already_present"]
    assert origin.requests_of("/x") == []
    with pytest.raises(SinkRefusedError) as refused:
        await _done(_work(origin, b"other", pool / "x", beneath=pool))
    assert str(pool) not in refused.value.message
    assert f"{pool}/x exists already with other content" in capfd.readouterr().err
    assert (pool / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("cut", ["cancelled", "killed", "child killed"])
async def test_a_stopped_download_goes_on_where_it_was(
    origin: FaultOrigin, pool: Path, cut: str
) -> None:
    """The journal is written through a lent descriptor, by another user, and found again."""
    work = _work(origin, CONTENT, pool / "x", DRIP, beneath=pool, source_format="raw")
    job = asyncio.create_task(_done(work))
    await asyncio.to_thread(origin.wait_for, lambda: origin.sent > 8 * MIB, timeout=40)
    if cut == "cancelled":
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    else:
        os.kill(_worker(child=cut == "child killed"), signal.SIGKILL)
        with pytest.raises(InternalError, match="was killed"):
            await job
    assert _left(pool) == [".x.fastdl-journal", ".x.fastdl-part"]
    origin.resources["/x"].rules.clear()
    result = await _done(work)
    assert result["resumed_bytes"] > 0
    assert (pool / "x").read_bytes() == CONTENT
    assert _left(pool) == ["x"]


def _worker(*, child: bool) -> int:
    """The worker's process, or the confined one below it."""
    (worker,) = (
        pid
        for pid in _children(os.getpid())
        if b"fastdl.agent.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return _children(worker)[0] if child else worker


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"checksum": "sha-256:" + "0" * 64}, IntegrityError),
        ({"source_format": "qcow2", "checksum": None}, UnsafeImageError),
    ],
)
async def test_what_fails_for_good_leaves_nothing(
    origin: FaultOrigin, pool: Path, change: dict[str, Any], error: type[Exception]
) -> None:
    """Neither a part file nor a journal: no later run can use them."""
    with pytest.raises(error):
        await _done(_work(origin, CONTENT, pool / "x", beneath=pool, **change))
    assert _left(pool) == []


async def test_a_target_in_use_is_busy(origin: FaultOrigin, pool: Path) -> None:
    """The lock is the opener's, and holds while the other process writes."""
    slow = Rule(rate=2e5)
    work = _work(origin, CONTENT, pool / "x", slow, beneath=pool, source_format="raw")
    job = asyncio.create_task(_done(work))
    await asyncio.to_thread(origin.wait_for, lambda: origin.sent > MIB)
    with pytest.raises(SinkBusyError):
        await _done(work)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_a_device_is_written_through_its_descriptor(
    origin: FaultOrigin, device: LoopDevice, tmp_path: Path
) -> None:
    """Its journal lies in a folder that the download's user cannot enter either."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    work = _work(
        origin, CONTENT, device.path, DRIP, target_format="raw", state=state, source_format="raw"
    )
    await _cancelled(work, origin, 8 * MIB)
    assert device.read(MIB) == bytes(MIB)
    origin.resources["/x"].rules.clear()
    result = await _done(work)
    assert result["resumed_bytes"] > 0
    assert device.read(len(CONTENT)) == CONTENT
    assert _kept(state) == [".release"]
    assert list(state.rglob(f".*{SUFFIX}")) == []


async def test_a_device_is_zeroed_where_the_bytes_are_wrong(
    origin: FaultOrigin, device: LoopDevice, tmp_path: Path
) -> None:
    """By the process that opened it, after the other one is gone."""
    work = _work(
        origin,
        CONTENT,
        device.path,
        target_format="raw",
        state=tmp_path / "state",
        source_format="raw",
        checksum="sha-256:" + "0" * 64,
    )
    with pytest.raises(IntegrityError):
        await _done(work)
    assert device.read(MIB) == bytes(MIB)
    assert device.read(MIB, len(CONTENT) - MIB) == bytes(MIB)


async def test_a_device_is_as_it_was_where_nothing_was_begun(
    origin: FaultOrigin, device: LoopDevice, tmp_path: Path
) -> None:
    """Whoever died before the first write has no part in it."""
    work = _work(
        origin,
        b"Rar!\x1a\x07\x00" + CONTENT,
        device.path,
        target_format="raw",
        state=tmp_path / "state",
        checksum=None,
    )
    with pytest.raises(FormatError):
        await _done(work)
    assert device.read(4096) == bytes([PATTERN]) * 4096


@pytest.mark.parametrize("server", ["qemu", "nbdkit"])
async def test_an_export_is_written_through_its_connections(
    origin: FaultOrigin, tmp_path: Path, server: str
) -> None:
    """The sockets are opened by root in a folder of root's, and used by the other process."""
    tmp_path.chmod(0o700)
    image = tmp_path / "disk"
    image.write_bytes(b"\xee" * (16 * MIB))
    context = (
        nbd.qemu_export(tmp_path, image, driver="raw")
        if server == "qemu"
        else nbd.nbdkit(tmp_path, ["file", str(image)])
    )
    with context as export:
        work = _work(origin, CONTENT, export.uri, target_format="raw", source_format="raw")
        result = await _done(work)
        assert result["target_bytes"] == len(CONTENT)
        assert image.read_bytes()[: len(CONTENT)] == CONTENT
        wrong = _work(
            origin,
            CONTENT,
            export.uri,
            target_format="raw",
            source_format="raw",
            checksum="sha-256:" + "0" * 64,
        )
        with pytest.raises(IntegrityError):
            await _done(wrong)
        assert image.read_bytes()[:MIB] == bytes(MIB)


@pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
async def test_an_export_is_zeroed_where_the_process_is_killed(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """The worker makes a connection of its own for it: the old ones died with the process."""
    image = tmp_path / "disk"
    image.write_bytes(b"\xee" * (16 * MIB))
    with nbd.qemu_export(tmp_path, image, driver="raw") as export:
        work = _work(origin, CONTENT, export.uri, DRIP, target_format="raw", source_format="raw")
        job = asyncio.create_task(_done(work))
        await asyncio.to_thread(origin.wait_for, lambda: origin.sent > 6 * MIB, timeout=30)
        os.kill(_worker(child=True), signal.SIGSEGV)
        with pytest.raises(InternalError, match="crashed: signal SIGSEGV"):
            await job
        assert image.read_bytes()[:MIB] == bytes(MIB)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """Name → (file, the disk that qemu-img reads from it)."""
    folder = tmp_path_factory.mktemp("images")
    raw = folder / "raw"
    fill_raw(raw, 7 * MIB, random.Random(5))
    out = {"raw": (raw.read_bytes(), raw.read_bytes())}
    for name, words in {
        "vmdk": ("-O", "vmdk"),
        "vhdx": ("-O", "vhdx"),
        "vdi": ("-O", "vdi"),
    }.items():
        run_tool("qemu-img", "convert", "-f", "raw", *words, raw, folder / name)
        out[name] = ((folder / name).read_bytes(), raw_of(folder / name, name))
    image = build(folder / "qcow2", Recipe(size=7 * MIB, compressed=True))
    out["qcow2"] = (image.read_bytes(), raw_of(image))
    return out


@pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vhdx", "vdi"])
async def test_every_format_becomes_a_disk_on_a_device(
    origin: FaultOrigin,
    device: LoopDevice,
    images: dict[str, tuple[bytes, bytes]],
    tmp_path: Path,
    kind: str,
) -> None:
    """qemu-img runs in a third process, on the staged file and nothing else."""
    file, disk = images[kind]
    state = tmp_path / "state"
    result = await _done(_work(origin, file, device.path, target_format="raw", state=state))
    assert device.read(len(disk)) == disk
    assert result["format"] == kind
    assert _kept(state) == [".release"]


@pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)
@pytest.mark.parametrize("packed", ["gz", "xz"])
@pytest.mark.parametrize("place", ["file", "device"])
async def test_a_packed_image_is_unpacked_on_the_way_or_beside(
    origin: FaultOrigin,
    device: LoopDevice,
    pool: Path,
    images: dict[str, tuple[bytes, bytes]],
    packed: str,
    place: str,
) -> None:
    """Files keep their format; what is to be converted takes two detours on its way to a disk."""
    file, disk = images["qcow2" if place == "file" else "vmdk"]
    if place == "file":
        work = _work(origin, PACK[packed](file), pool / "x", action="unpack", beneath=pool)
        result = await _done(work)
        assert (pool / "x").read_bytes() == file
        assert result["virtual_size"] == len(disk)
        assert _left(pool) == ["x"]
        return
    work = _work(origin, PACK[packed](file), device.path, target_format="raw", state=pool / "state")
    result = await _done(work)
    assert device.read(len(disk)) == disk
    assert any("staged" in text for text in result["warnings"])


@pytest.mark.parametrize("cut", ["cancelled", "killed", "child killed"])
@pytest.mark.parametrize("place", ["file", "device"])
async def test_what_a_stopped_process_staged_is_found_again(
    origin: FaultOrigin, device: LoopDevice, pool: Path, cut: str, place: str
) -> None:
    """What is converted lies in a folder that only its own job finds, whoever was killed."""
    if not HAVE_QEMU:
        pytest.skip(NEED_QEMU)
    disk = pseudo_random(6, 12 * MIB)
    raw, made = pool / "raw", pool / "made"
    raw.write_bytes(disk)
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, made)
    source = made.read_bytes()
    raw.unlink()
    made.unlink()
    target = pool / "x" if place == "file" else device.path
    state = pool / "state"
    more: dict[str, Any] = {"beneath": pool} if place == "file" else {"state": state}
    # A kill costs a range of each connection: of one.
    more["max_connections"] = 1
    work = _work(origin, source, target, DRIP, target_format="raw", **more)
    job = asyncio.create_task(_done(work))
    await asyncio.to_thread(origin.wait_for, lambda: origin.sent > 8 * MIB, timeout=40)
    if cut == "cancelled":
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
    else:
        child = Path(f"/proc/{_worker(child=True)}")
        os.kill(_worker(child=cut == "child killed"), signal.SIGKILL)
        with pytest.raises(InternalError, match="was killed"):
            await job
        # It dies with its parent, but not at once, and has the target open.
        for _ in range(400):
            if not child.exists():
                break
            await asyncio.sleep(0.05)
    origin.resources["/x"].rules.clear()
    result = await _done(work)
    assert result["resumed_bytes"] > MIB
    shown = (pool / "x").read_bytes() if place == "file" else device.read(len(disk))
    assert shown == disk
    assert list(pool.rglob(f".*{SUFFIX}")) == []


@pytest.mark.parametrize("cut", ["killed", "child killed"])
@pytest.mark.parametrize("way", ["device", "unpack"])
async def test_what_a_stopped_process_decoded_resumes(
    origin: FaultOrigin, device: LoopDevice, pool: Path, cut: str, way: str
) -> None:
    """A source that is unpacked on its way to a disk, or to a file in its own format, is kept."""
    disk = pseudo_random(6, 12 * MIB)
    target = pool / "x" if way == "unpack" else device.path
    more: dict[str, Any] = {"action": "unpack", "beneath": pool}
    if way == "device":
        more = {"target_format": "raw", "state": pool / "state"}
    more["max_connections"] = 1
    work = _work(origin, PACK["gz"](disk), target, Rule(rate=8e6), **more)
    job = asyncio.create_task(_done(work))
    await asyncio.to_thread(origin.wait_for, lambda: origin.sent > 9 * MIB, timeout=40)
    child = Path(f"/proc/{_worker(child=True)}")
    os.kill(_worker(child=cut == "child killed"), signal.SIGKILL)
    with pytest.raises(InternalError, match="was killed"):
        await job
    # It dies with its parent, but not at once, and has the target open.
    for _ in range(400):
        if not child.exists():
            break
        await asyncio.sleep(0.05)
    origin.resources["/x"].rules.clear()
    result = await _done(work)
    assert result["resumed_bytes"] > MIB
    shown = (pool / "x").read_bytes() if way == "unpack" else device.read(len(disk))
    assert shown == disk
    assert list(pool.rglob(f".*{SUFFIX}")) == []


async def test_what_was_left_by_a_killed_worker_is_swept_up(
    origin: FaultOrigin, pool: Path
) -> None:
    """Where nobody has come back to it for a day."""
    left = path_beside(pool / "x", "another")
    (left / "staged").mkdir(parents=True)
    (left / "staged" / "image").write_bytes(b"half")
    left.chmod(0o700)
    os.utime(left, (0, 0))
    raw = pseudo_random(4, MIB)
    await _done(_work(origin, PACK["gz"](raw), pool / "x", target_format="raw", beneath=pool))
    assert (pool / "x").read_bytes() == raw
    assert _left(pool) == ["x"]


async def test_read_back_compares_through_the_descriptor(
    origin: FaultOrigin, device: LoopDevice, tmp_path: Path
) -> None:
    """``verify_readback`` inside of the confinement."""
    work = _work(
        origin,
        CONTENT,
        device.path,
        target_format="raw",
        source_format="raw",
        state=tmp_path / "state",
        verify_readback=True,
    )
    await _done(work)
    assert device.read(len(CONTENT)) == CONTENT


@pytest.mark.parametrize("readable", [True, False])
async def test_the_operators_own_authorities_are_trusted_wherever_they_lie(
    pool: Path, certs: CertLab, monkeypatch: pytest.MonkeyPatch, *, readable: bool
) -> None:
    """SSL_CERT_FILE in a folder of root's, outside of all that a download may read."""
    authorities = pool / "ca.pem"
    if readable:
        authorities.write_bytes(certs.ca.cert_file.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    context = certs.leaf("good").server_context()
    with FaultOrigin({}, tls=context) as secure:
        work = _work(secure, CONTENT, pool / "x", beneath=pool, source_format="raw")
        if readable:
            await _done(work)
            assert (pool / "x").read_bytes() == CONTENT
            return
        with pytest.raises(TrustError, match="SSL_CERT_FILE cannot be read"):
            await _done(work)
