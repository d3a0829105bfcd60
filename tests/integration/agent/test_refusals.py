# SPDX-License-Identifier: Apache-2.0
"""What does an agent refuse whatever it is told, and which secrets does it leave behind?"""

from __future__ import annotations

import dataclasses
import sqlite3
import struct
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from fastdl.errors import LimitError, PolicyError
from fastdl.wire import messages as m
from fastdl.wire.packed import unpack
from tests.env.agent_process import (
    CONTENT,
    DIGEST,
    LOOPBACK,
    SMALL,
    Process,
    done_of,
    download,
    slowly,
)
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource
from tests.env.wire_manager import WireManager


def test_what_becomes_too_large_is_refused_before_a_byte_moves(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """By what the host's own probe finds: the origin may say something else by then."""
    host = manager.host()
    for limits, words in (
        ({"max_source_size": 1 << 20}, "the file at the origin has"),
        ({"max_virtual_size": 1 << 20}, "the disk has"),
    ):
        command = download(agent, origin.url("/x.raw"))
        assert isinstance(command.args, m.DownloadArgs)
        sent = origin.sent
        manager.want(host, replace(command, args=replace(command.args, **limits)))  # type: ignore[arg-type]
        result = manager.result(command.job)
        assert result.failure is not None
        assert result.failure.code == 25
        assert words in result.failure.message
        assert origin.sent - sent < 2 << 20
    assert agent.visible() == []


def test_secrets_leave_the_state_folder_with_the_job(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The journal, its write-ahead log, the pool: nowhere is an origin's password kept."""
    host = manager.host()
    secret = "Bearer s3cr3t-of-the-origin"
    slowly(origin, rate=3e6)
    url = origin.url("/x.raw") + "?token=qu3ry-s3cr3t"
    command = download(agent, url, checksum=DIGEST, headers=(("Authorization", secret),))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 4 << 20)
    assert secret.encode() in _everything(agent.state), "it must survive a crash until then"
    done_of(manager.result(command.job))
    failing = download(agent, url.replace("/x.raw", "/no.raw"), headers=(("X", secret),))
    manager.want(host, command, failing)
    assert manager.result(failing.job).failure is not None
    found = _everything(agent.state) + _everything(agent.pool)
    assert b"s3cr3t" not in found.replace(CONTENT, b"")


def _everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_probe_writes_nothing(agent: Process, manager: WireManager, origin: FaultOrigin) -> None:
    """Registration asks a host, because hosts have the trust and the network that count."""
    host = manager.host()
    transfer = m.Transfer(sources=(origin.url("/x.raw"),), allowed_cidrs=LOOPBACK)
    args = m.ProbeArgs(transfer=transfer)
    manager.want(host, m.Command(job="p", kind=m.Kind.PROBE, fence=1, args=args))
    done = manager.result("p").done
    assert isinstance(done, m.ProbeDone)
    assert (done.size, done.ranges) == (len(CONTENT), True)
    assert agent.visible() == []


def test_a_confined_download_follows_the_operators_rules(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The mirror that a rule names is asked where the origin fails; a block is a block."""
    host = manager.host()
    with FaultOrigin({"/m/x.raw": Resource.of(CONTENT)}) as near:
        origin.resources["/x.raw"].rules.append(Rule(status=404))
        mirrored = m.OriginRule(
            url=origin.url("/"), mirrors=(near.url("/m/"),), headers=(("X-Key", "origin"),)
        )
        blocked = m.OriginRule(url=origin.url("/"), blocked="taken over")
        for rule, code in ((mirrored, 0), (blocked, PolicyError.exit_code)):
            command = download(agent, origin.url("/x.raw"))
            assert isinstance(command.args, m.DownloadArgs)
            transfer = dataclasses.replace(command.args.transfer, rules=(rule,))
            args = dataclasses.replace(command.args, transfer=transfer)
            manager.want(host, dataclasses.replace(command, args=args))
            result = manager.result(command.job)
            if code:
                assert result.failure is not None
                assert result.failure.code == code
                assert "taken over" in result.failure.message
            else:
                assert isinstance(result.done, m.DownloadDone)
                assert near.url("/m/x.raw") in {one.url for one in result.done.mirrors}
        assert all("x-key" not in request.fields for request in near.requests)
        assert {request.fields.get("x-key") for request in origin.requests} == {"origin"}


def test_documents_are_fetched_under_the_rules_of_downloads(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A checksum list is asked for as the template is: where that may not be, neither may this."""
    host = manager.host()
    origin.resources["/SUMS"] = Resource.of(b"x" * 3000)
    for job, cidrs, most, code in (
        ("d1", LOOPBACK, 1 << 20, 0),
        ("d2", (), 1 << 20, PolicyError.exit_code),
        ("d3", LOOPBACK, 2000, LimitError.exit_code),
    ):
        sources = (origin.url("/SUMS"), origin.url("/SUMS.asc"))
        transfer = m.Transfer(sources=sources, allowed_cidrs=cidrs)
        args = m.DocumentsArgs(transfer=transfer, most=most)
        manager.want(host, m.Command(job=job, kind=m.Kind.DOCUMENTS, fence=1, args=args))
        result = manager.result(job)
        if code:
            assert result.failure is not None
            assert result.failure.code == code
            continue
        assert isinstance(result.done, m.DocumentsDone)
        found = [unpack(text, most=1 << 20) for text in result.done.documents]
        assert found == [b"x" * 3000, None]
        assert not result.done.public_source


def test_a_probe_tells_what_a_download_would_refuse(agent: Process, manager: WireManager) -> None:
    """The head of the image is there: whoever registers it should not learn that from a VM."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 112, 11, 16, 1 << 30, 0, 1, 0x30000, 0x10000, 1, 0, 0
    ) + struct.pack(">QQQII", 0, 0, 0, 4, 104)
    backed = (head + bytes(8) + b"/etc/passwd").ljust(256 << 10, b"\0")
    host = manager.host()
    with FaultOrigin({"/b.qcow2": Resource.of(backed), "/s.raw": Resource.of(SMALL)}) as origin:
        for job, path, format_ in (("p1", "/b.qcow2", "QCOW2"), ("p2", "/s.raw", "RAW")):
            transfer = m.Transfer(sources=(origin.url(path),), allowed_cidrs=LOOPBACK)
            args = m.ProbeArgs(transfer=transfer, format=format_)
            manager.want(host, m.Command(job=job, kind=m.Kind.PROBE, fence=1, args=args))
            done = manager.result(job).done
            assert isinstance(done, m.ProbeDone)
            assert bool(done.unsafe) == (path == "/b.qcow2"), done
            assert all("backing" in reason for reason in done.unsafe)


def test_what_the_host_must_not_do_is_refused(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """T15, G05: foreign pools, names that lead out of the pool, local files, unknown kinds."""
    host = manager.host()
    url = origin.url("/s.raw")
    commands = {
        33: download(agent, url, pool=str(uuid.uuid4())),
        2: download(agent, url, volume="../outside"),
        15: download(agent, "file:///etc/hostname"),
        71: m.Command(job="u", kind="reboot", fence=1, args=m.UnknownArgs()),
    }
    manager.want(host, *commands.values())
    for code, command in commands.items():
        failure = manager.result(command.job).failure
        assert failure is not None
        assert failure.code == code, failure
    assert origin.requests == []


def test_no_secret_is_left_in_logs_journal_or_arguments(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """T18: headers live in the journal only while their job runs."""
    host = manager.host()
    command = download(
        agent, origin.url("/s.raw?sig=canary-query"), headers=(("X-Token", "canary-header"),)
    )
    manager.want(host, command)
    done_of(manager.result(command.job))
    assert agent.stop() == 0
    assert origin.requests[0].fields["x-token"] == "canary-header"
    with sqlite3.connect(agent.state / "journal.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in agent.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"canary-header" not in data, path
            assert b"canary-query" not in data, path


@pytest.mark.parametrize("length", [1500, 5000])
def test_what_an_origin_says_keeps_no_result_from_the_manager(
    agent: Process, manager: WireManager, length: int
) -> None:
    """A result that the wire refuses would be tried again for ever, and hold up all others."""
    host = manager.host()
    resource = Resource.of(SMALL, etag='"' + "x" * length + '"')
    with FaultOrigin({"/long.raw": resource, "/x.raw": Resource.of(SMALL)}) as origin:
        for job, path in (("long", "/long.raw"), ("next", "/x.raw")):
            transfer = m.Transfer(sources=(origin.url(path),), allowed_cidrs=LOOPBACK)
            args = m.ProbeArgs(transfer=transfer)
            manager.want(host, m.Command(job=job, kind=m.Kind.PROBE, fence=1, args=args))
            done = manager.result(job, timeout=20).done
            assert isinstance(done, m.ProbeDone)
            assert done.size == len(SMALL)
