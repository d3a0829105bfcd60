# SPDX-License-Identifier: Apache-2.0
"""Does a template come from an NFS server without a mount?

A real nfs-ganesha: version 4 on loopback, version 3 with its portmapper in a network
namespace.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.lab.metalink import metalink
from tests.env.command import Outcome, run_fastdl, running_fastdl
from tests.env.loopdev import loop_device
from tests.env.netns import network_namespace
from tests.env.nfs import NfsServer, nfs_server
from tests.env.origin import pseudo_random

MIB = 1 << 20
IMAGE = pseudo_random(41, 24 * MIB + 777)
CHECKSUM = f"sha-256:{hashlib.sha256(IMAGE).hexdigest()}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NfsServer]:
    """One server for the tests that do not stop it."""
    folder = tmp_path_factory.mktemp("nfs")
    with nfs_server(exported(folder), folder / "state") as running:
        yield running


def exported(folder: Path) -> Path:
    """A folder with the image, at the top and deeper down under an odd name."""
    images = folder / "images"
    (images / "a b").mkdir(parents=True)
    for name in ("image.raw", "a b/ü&.raw"):
        (images / name).write_bytes(IMAGE)
    (images / "empty.raw").touch()
    (images / "secret.raw").write_bytes(b"x")
    return images


def get(source: str, target: Path | str, *words: str, home: Path) -> Outcome:
    """``fastdl get SOURCE -o TARGET --json``."""
    command = ["get", source, "-o", str(target), "--json", "--progress", "none", *words]
    return run_fastdl(command, home=home / "home")


def test_version_4_over_several_connections(server: NfsServer, tmp_path: Path) -> None:
    """The plain case: every byte, verified, asked for by more than one connection."""
    target = tmp_path / "image.raw"
    done = get(server.url("image.raw"), target, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE
    assert done.json["mirrors"][0]["requests"] > 1
    assert done.json["integrity"] == "strong"


def test_the_version_need_not_be_named(server: NfsServer, tmp_path: Path) -> None:
    """Version 4 is found where it is spoken."""
    url = server.url("image.raw").replace("version=4&", "")
    assert get(url, tmp_path / "image.raw", home=tmp_path).code == 0


def test_an_odd_name_is_sent_decoded(server: NfsServer, tmp_path: Path) -> None:
    """Spaces, ampersands and letters beyond ASCII are percent-encoded in the URL alone."""
    target = tmp_path / "image.raw"
    done = get(server.url("a%20b/%C3%BC%26.raw"), target, home=tmp_path)
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE


def test_an_empty_file_is_a_file(server: NfsServer, tmp_path: Path) -> None:
    """No byte is asked for where there is none."""
    done = get(server.url("empty.raw"), tmp_path / "e", home=tmp_path)
    assert done.code == 0, str(done)
    assert (tmp_path / "e").read_bytes() == b""


def test_onto_a_block_device(server: NfsServer, tmp_path: Path) -> None:
    """The way of a template: from NFS storage onto a volume."""
    with loop_device(tmp_path, size=32 * MIB) as device:
        done = get(server.url("image.raw"), device.path, "--checksum", CHECKSUM, home=tmp_path)
        assert done.code == 0, str(done)
        assert device.read(len(IMAGE)) == IMAGE


@pytest.mark.parametrize("name", ["missing.raw", "a%20b", "missing/image.raw"])
def test_what_is_not_there_is_said_once(name: str, server: NfsServer, tmp_path: Path) -> None:
    """The server's no is final: it is not asked again, and nothing stays behind."""
    target = tmp_path / "pool" / "image.raw"
    target.parent.mkdir()
    done = get(server.url(name), target, home=tmp_path)
    assert (done.code, done.classes) == (11, ["HTTP_STATUS"]), str(done)
    assert list(target.parent.iterdir()) == []


def test_a_wrong_digest_is_found(server: NfsServer, tmp_path: Path) -> None:
    """NFS has no digests of its own: ours decides."""
    wrong = f"sha-256:{'0' * 64}"
    done = get(server.url("image.raw"), tmp_path / "i", "--checksum", wrong, home=tmp_path)
    assert done.code == 21, str(done)


def test_a_local_metalink_leads_to_nfs(server: NfsServer, tmp_path: Path) -> None:
    """Mirrors of a metalink may be NFS; a dead one beside it costs nothing."""
    urls = [server.url("image.raw"), "nfs://127.0.0.1:1/none/image.raw?version=4"]
    document = tmp_path / "image.meta4"
    document.write_text(
        metalink(
            "image.raw", urls, size=len(IMAGE), sha256=CHECKSUM.partition(":")[2], ranked=False
        )
    )
    target = tmp_path / "image.raw"
    done = get(str(document), target, home=tmp_path)
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE


def test_the_strict_policy_refuses_loopback(server: NfsServer, tmp_path: Path) -> None:
    """The address policy is the same for every protocol, names included."""
    for host in ("127.0.0.1", "localhost"):
        url = server.url("image.raw", host=host)
        done = get(url, tmp_path / "image.raw", "--policy", "strict", home=tmp_path)
        assert (done.code, done.classes) == (15, ["POLICY"]), str(done)


def test_a_killed_client_goes_on_where_it_was(server: NfsServer, tmp_path: Path) -> None:
    """What was recorded is not fetched again."""
    target = tmp_path / "pool" / "image.raw"
    target.parent.mkdir()
    url = server.url("image.raw")
    command = ["get", url, "-o", str(target), "--checksum", CHECKSUM, "--limit-rate", "8M"]
    with running_fastdl([*command, "--progress", "none"], home=tmp_path / "home") as run:
        wait_for_journal(target.parent)
        run.send(signal.SIGKILL)
        run.finish(timeout=20)
    done = get(url, target, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE
    assert done.json["resumed_bytes"] > 0


def wait_for_journal(folder: Path) -> None:
    """Return when a part of the image is on the disk, and recorded where it is recorded."""
    deadline = time.monotonic() + 20
    while not any("journal" in p.name and p.stat().st_size > 800 for p in folder.iterdir()):
        assert time.monotonic() < deadline, [p.name for p in folder.iterdir()]
        time.sleep(0.05)


def test_a_file_that_changes_is_not_mixed(server: NfsServer, tmp_path: Path) -> None:
    """Another content under the same name during the transfer: started anew, or refused."""
    source = server.folder / "changing.raw"
    source.write_bytes(IMAGE)
    other = pseudo_random(42, len(IMAGE))
    target = tmp_path / "image.raw"
    command = ["get", server.url("changing.raw"), "-o", str(target), "--limit-rate", "8M"]
    with running_fastdl([*command, "--progress", "none"], home=tmp_path / "home") as run:
        time.sleep(0.8)  # somewhere in the middle; where exactly does not matter
        source.write_bytes(other)
        done = run.finish(timeout=60)
    assert done.code in {0, 13}, str(done)
    if done.code == 0:
        assert target.read_bytes() in (IMAGE, other)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_stops_mid_way_is_a_network_error(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Cut or silent: both end within the stall time, with the class that says who to call."""
    with nfs_server(exported(tmp_path), tmp_path / "state") as server:
        target = tmp_path / "image.raw"
        command = ["get", server.url("image.raw"), "-o", str(target), "--limit-rate", "6M"]
        limits = ["--stall-timeout", "1", "--connect-timeout", "1", "--retry", "1"]
        with running_fastdl([*command, *limits], home=tmp_path / "home") as run:
            wait_for_journal(tmp_path)
            server.send(number)
            done = run.finish(timeout=40)
    assert (done.code, done.classes) == (10, ["NET"]), str(done)
    assert not target.exists()


def test_a_silent_server_does_not_hold_ctrl_c(tmp_path: Path) -> None:
    """Waiting for an answer ends with the signal, not with the stall time."""
    with nfs_server(exported(tmp_path), tmp_path / "state") as server:
        command = ["get", server.url("image.raw"), "-o", str(tmp_path / "i"), "--limit-rate", "6M"]
        with running_fastdl(command, home=tmp_path / "home") as run:
            wait_for_journal(tmp_path)
            server.send(signal.SIGSTOP)
            run.send(signal.SIGINT)
            done = run.finish(timeout=20)
    assert done.code == 130, str(done)


def test_nobody_listens(tmp_path: Path) -> None:
    """A refused connection is a network error, for both versions."""
    for query in ("?version=4", "?version=3&mountport=1", ""):
        done = get(f"nfs://127.0.0.1:1/e/f{query}", tmp_path / "f", "--retry", "0", home=tmp_path)
        assert (done.code, done.classes) == (10, ["NET"]), str(done)


@pytest.mark.parametrize("ports", ["told", "asked of the portmapper"])
def test_version_3_finds_the_export(ports: str, tmp_path: Path) -> None:
    """The URL does not say where the export ends: the server's word on each folder does."""
    target = tmp_path / "image.raw"
    with (
        network_namespace(["192.0.2.9/32"]) as space,
        nfs_server(exported(tmp_path), tmp_path / "state", space=space) as server,
    ):
        url = server.url("a%20b/%C3%BC%26.raw", host="192.0.2.9", version=3)
        if ports != "told":
            url = url.partition("?")[0] + "?version=3"
        command = ["get", url, "-o", str(target), "--json", "--checksum", CHECKSUM]
        done = run_fastdl(command, home=tmp_path / "home", prefix=space.prefix)
        missing = run_fastdl(
            ["get", url.replace("%26", "%27"), "-o", str(tmp_path / "x")],
            home=tmp_path / "home",
            prefix=space.prefix,
        )
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE
    assert missing.code == 11, str(missing)


def test_version_3_is_spoken_where_4_is_not_offered_for_the_path(tmp_path: Path) -> None:
    """The two versions may know a file by different paths: both are tried."""
    target = tmp_path / "image.raw"
    with (
        network_namespace(["192.0.2.9/32"]) as space,
        nfs_server(exported(tmp_path), tmp_path / "state", space=space) as server,
    ):
        url = server.url("image.raw", host="192.0.2.9", version=3).replace("version=3&", "")
        done = run_fastdl(
            ["get", url, "-o", str(target)], home=tmp_path / "home", prefix=space.prefix
        )
    assert done.code == 0, str(done)
    assert target.read_bytes() == IMAGE


def test_two_clients_in_one_second_do_not_evict_each_other(
    server: NfsServer, tmp_path: Path
) -> None:
    """Each connection is a client of its own to version 4: no state is taken away."""
    results: list[Outcome] = []

    def run(index: int) -> None:
        home = tmp_path / str(index)
        home.mkdir()
        results.append(get(server.url("image.raw"), home / "image.raw", home=home))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.code for done in results] == [0, 0, 0], [str(done) for done in results]
    assert all(sum(m["errors"] for m in done.json["mirrors"]) == 0 for done in results)
    assert os.listdir(server.folder)
