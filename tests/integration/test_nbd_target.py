# SPDX-License-Identifier: Apache-2.0
"""Does an image land on an NBD export as it would on a block device?

Real servers: nbdkit with its fault filters, and qemu-storage-daemon with raw and qcow2 files.
"""

from __future__ import annotations

import gzip
import hashlib
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fastdl.core.nbd import Export
from fastdl.errors import SinkIOError
from fastdl.sinks.nbd import NbdSink, shown
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.nbd import nbdkit, qemu_export
from tests.env.origin import pseudo_random

MIB = 1 << 20
IMAGE = pseudo_random(31, 12 * MIB + 777)
SIZE = 16 * MIB
CHECKSUM = f"sha-256:{hashlib.sha256(IMAGE).hexdigest()}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The image as a local file."""
    path = tmp_path / "source.raw"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw file full of a former tenant's data."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\xee" * SIZE)
    return path


def get(source: Path, uri: str, *words: str, home: Path) -> Outcome:
    """``fastdl get SOURCE -o URI --json``."""
    return run_fastdl(
        ["get", str(source), "-o", uri, "--json", "--progress", "none", *words], home=home / "home"
    )


def ends(path: Path, size: int = len(IMAGE)) -> tuple[bytes, bytes]:
    """Head and tail of an image of *size* bytes, as they are held back."""
    data = path.read_bytes()
    return data[:MIB], data[size - MIB : size]


def check_unusable(path: Path) -> None:
    """Head and tail are zero: nothing looks like an image."""
    assert ends(path) == (bytes(MIB), bytes(MIB))


def test_nbdkit_gets_the_image_over_several_connections(
    source: Path, disk: Path, tmp_path: Path
) -> None:
    """The plain case: every byte, the former end of the disk gone, parallel connections used."""
    log = tmp_path / "log"
    with nbdkit(tmp_path, ["file", str(disk), f"logfile={log}"], filters=["log"]) as server:
        done = get(source, server.uri, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, str(done)
    assert done.json["target_bytes"] == len(IMAGE)
    assert disk.read_bytes()[: len(IMAGE)] == IMAGE
    assert disk.read_bytes()[-MIB:] == bytes(MIB)
    assert log.read_text().count(" Disconnect ") > 1


def test_a_packed_source_leaves_nothing_of_the_former_end(disk: Path, tmp_path: Path) -> None:
    """The size shows only at the end, so all of the last MiB is zeroed before."""
    packed = tmp_path / "source.raw.gz"
    packed.write_bytes(gzip.compress(IMAGE, 1))
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        done = get(packed, server.uri, home=tmp_path)
    assert done.code == 0, str(done)
    assert disk.read_bytes()[: len(IMAGE)] == IMAGE
    assert disk.read_bytes()[-MIB:] == bytes(MIB)


@pytest.mark.parametrize("driver", ["raw", "qcow2"])
def test_qemu_writes_the_image_into_its_file(driver: str, source: Path, tmp_path: Path) -> None:
    """The road to everything that qemu can write: its own tool finds the same disk."""
    image, copy = tmp_path / "disk.img", tmp_path / "copy.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", driver, image, str(SIZE)], check=True)
    with qemu_export(tmp_path, image, driver=driver) as server:
        done = get(source, server.uri, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, str(done)
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, copy], check=True)
    assert copy.read_bytes() == IMAGE + bytes(SIZE - len(IMAGE))


def test_a_qcow2_source_lands_as_raw(tmp_path: Path) -> None:
    """An export is a disk: an image file's clusters land at their guest offsets."""
    raw, image, disk = tmp_path / "in.raw", tmp_path / "in.qcow2", tmp_path / "disk.raw"
    raw.write_bytes(IMAGE[: 4 * MIB] + bytes(4 * MIB) + IMAGE[: 2 * MIB])
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
    disk.write_bytes(b"\xee" * SIZE)
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        done = get(image, server.uri, home=tmp_path)
    assert done.code == 0, str(done)
    assert disk.read_bytes()[: 10 * MIB] == raw.read_bytes()


@pytest.mark.parametrize("words", [(), ("--filter=nozero",), ("--filter=multi-conn",)])
def test_servers_without_a_command_get_all_bytes(
    words: tuple[str, ...], source: Path, disk: Path, tmp_path: Path
) -> None:
    """Neither the zero command nor several connections are needed."""
    more = ["multi-conn-mode=disable"] if "--filter=multi-conn" in words else []
    with nbdkit(tmp_path, ["file", str(disk), *more], options=words) as server:
        done = get(source, server.uri, home=tmp_path)
    assert done.code == 0, str(done)
    assert disk.read_bytes()[: len(IMAGE)] == IMAGE


def test_a_server_with_large_blocks_gets_ragged_ends_merged(
    source: Path, disk: Path, tmp_path: Path
) -> None:
    """The protocol lets a server refuse what is not a multiple of its block (4096 here)."""
    words = ["blocksize-minimum=4096", "blocksize-error-policy=error"]
    plugin = ["file", str(disk), *words]
    with nbdkit(tmp_path, plugin, filters=["blocksize-policy"]) as server:
        done = get(source, server.uri, home=tmp_path)
    assert done.code == 0, str(done)
    assert disk.read_bytes()[: len(IMAGE)] == IMAGE


def test_a_full_server_is_a_lack_of_space(source: Path, tmp_path: Path) -> None:
    """ENOSPC from the other side has the class of ENOSPC here."""
    with nbdkit(tmp_path, ["full", str(SIZE)]) as server:
        done = get(source, server.uri, home=tmp_path)
    assert (done.code, done.classes) == (30, ["SINK_SPACE"]), str(done)


def test_an_export_smaller_than_the_image_is_refused_untouched(
    source: Path, tmp_path: Path
) -> None:
    """Nothing is written where it cannot fit."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"\xee" * (4 * MIB))
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        done = get(source, server.uri, home=tmp_path)
    assert done.code == 30, str(done)
    assert disk.read_bytes() == b"\xee" * (4 * MIB)


def test_a_failing_server_leaves_nothing_half_valid(
    source: Path, disk: Path, tmp_path: Path
) -> None:
    """The write that fails is an error of the target; head and tail stay zero."""
    trigger = tmp_path / "trigger"
    words = ["error-pwrite=EIO", "error-pwrite-rate=100%", f"error-file={trigger}"]
    trigger.touch()
    with nbdkit(tmp_path, ["file", str(disk), *words], filters=["error"]) as server:
        done = get(source, server.uri, home=tmp_path)
    assert (done.code, done.classes) == (31, ["SINK_IO"]), str(done)
    check_unusable(disk)


def test_a_server_that_dies_leaves_nothing_half_valid(
    source: Path, disk: Path, tmp_path: Path
) -> None:
    """A lost connection is an error of the target, and comes at once."""
    words = ["file", str(disk), "rate=8M"]
    with nbdkit(tmp_path, words, filters=["rate"]) as server:
        command = ["get", str(source), "-o", server.uri, "--progress", "json"]
        with running_fastdl(command, home=tmp_path / "home") as run:
            wait_for_bytes(disk)
            server.process.kill()
            done = run.finish(timeout=30)
    assert done.code == 31, str(done)
    check_unusable(disk)


def wait_for_bytes(disk: Path) -> None:
    """Return when the body of the image begins to arrive on *disk*."""
    deadline = time.monotonic() + 20
    while disk.read_bytes()[MIB : 2 * MIB] != IMAGE[MIB : 2 * MIB]:
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)


def test_a_read_only_export_is_refused(source: Path, disk: Path, tmp_path: Path) -> None:
    """Said before anything is fetched."""
    with nbdkit(tmp_path, ["file", str(disk)], options=["--readonly"]) as server:
        done = get(source, server.uri, home=tmp_path)
    assert (done.code, done.classes) == (33, ["SINK_REFUSED"]), str(done)


def test_a_known_signature_must_be_named_to_be_destroyed(
    source: Path, disk: Path, tmp_path: Path
) -> None:
    """A disk in use elsewhere is no target by mistake."""
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        refused = get(source, server.uri, home=tmp_path)
        allowed = get(source, server.uri, "--overwrite", "ext4", home=tmp_path)
    assert refused.code == 33, str(refused)
    assert "ext4" in refused.stderr
    assert allowed.code == 0, str(allowed)


def test_a_wrong_digest_leaves_head_and_tail_zero(source: Path, disk: Path, tmp_path: Path) -> None:
    """Verified or absent: the body may stay, the image does not appear."""
    wrong = f"sha-256:{'0' * 64}"
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        done = get(source, server.uri, "--checksum", wrong, home=tmp_path)
    assert done.code == 21, str(done)
    check_unusable(disk)


@pytest.mark.parametrize("verb", ["zero", "write"])
def test_ctrl_c_does_not_wait_for_a_hanging_server(
    verb: str, source: Path, disk: Path, tmp_path: Path
) -> None:
    """Requests under way get two seconds, not the minute that a healthy job grants them."""
    log = tmp_path / "log"
    words = ["file", str(disk), f"delay-{verb}=600", f"logfile={log}"]
    with nbdkit(tmp_path, words, filters=["log", "delay"]) as server:
        command = ["get", str(source), "-o", server.uri, "--progress", "none"]
        with running_fastdl(command, home=tmp_path / "home") as run:
            deadline = time.monotonic() + 20
            while f"{verb.title()} id=" not in (log.read_text() if log.exists() else ""):
                assert time.monotonic() < deadline, "nothing was written"
                time.sleep(0.02)
            run.send(signal.SIGINT)
            done = run.finish(timeout=30)
        server.process.kill()
    assert done.code == 130, str(done)
    if verb == "write":
        check_unusable(disk)
    else:
        assert disk.read_bytes()[:MIB] == b"\xee" * MIB


def test_a_request_that_takes_too_long_gives_the_connection_up(disk: Path, tmp_path: Path) -> None:
    """The limit holds without a signal, and what comes after it fails at once."""
    with nbdkit(tmp_path, ["file", str(disk), "rdelay=600"], filters=["delay"]) as server:
        export = Export(server.uri, max_connections=1, limit=0.3)
        for _ in range(2):
            with pytest.raises(SinkIOError):
                export.pread(4096, 0)
        export.close()
        server.process.kill()


def test_threads_write_side_by_side(disk: Path, tmp_path: Path) -> None:
    """Disjoint ranges from more threads than connections all arrive."""
    parts = [IMAGE[at : at + MIB] for at in range(0, 12 * MIB, MIB)]
    with nbdkit(tmp_path, ["file", str(disk)]) as server:
        sink = NbdSink(server.uri)
        sink.preallocate(len(IMAGE))
        core = sink.core_sink(12 * MIB, hold=MIB)
        core.begin()
        threads = [
            threading.Thread(target=core.pwrite, args=(part, index * MIB))
            for index, part in enumerate(parts)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_held_back = disk.read_bytes()[:MIB]
        core.release()
        core.close()
        sink.publish(12 * MIB)
        sink.close()
    assert check_held_back == bytes(MIB)
    assert disk.read_bytes()[: 12 * MIB] == IMAGE[: 12 * MIB]


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("nbd+unix:///disk?socket=/nonexistent/socket", 31),
        ("nbd://127.0.0.1:1/disk", 31),
        ("nbd+unix:///disk", 2),
        ("nbd://", 31),
    ],
)
def test_a_server_that_is_not_there_is_named(
    uri: str, code: int, source: Path, tmp_path: Path
) -> None:
    """A wrong URI and an absent server are different errors, each with its sentence."""
    done = get(source, uri, home=tmp_path)
    assert done.code == code, str(done)
    assert len(done.classes) == 1


def test_an_unknown_export_is_refused(source: Path, tmp_path: Path) -> None:
    """The server is there, the disk is not."""
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(SIZE))
    with qemu_export(tmp_path, image, driver="raw") as server:
        done = get(source, server.uri.replace("/disk", "/other"), home=tmp_path)
    assert done.code == 33, str(done)


def test_a_shown_uri_has_no_secrets() -> None:
    """Users and credential files of an NBD URI stay out of results and messages."""
    uri = "nbds://alice@host:10809/disk?tls-psk-file=/etc/secret"
    assert shown(uri) == "nbds://host:10809/disk"
    assert shown("nbd+unix:///d?socket=/run/s&x=y") == "nbd+unix:///d?socket=/run/s"
