# SPDX-License-Identifier: Apache-2.0
"""Does the agent do what its manager's documents say, whatever happens in between? (G, T14)"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastdl.agent.properties import load
from fastdl.errors import LimitError, PolicyError
from fastdl.trust.keystore import Keystore, Passphrase
from fastdl.wire import messages as m
from fastdl.wire.packed import unpack
from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.wire_manager import WireManager

CONTENT = pseudo_random(11, 24 * 1024 * 1024)
SMALL = CONTENT[: 1 << 20]
DIGEST = "{SHA-256}" + hashlib.sha256(CONTENT).hexdigest()
LOOPBACK = ("127.0.0.0/8",)


class Process:
    """An agent process on a state, configuration and pool folder of its own."""

    def __init__(self, folder: Path, manager: WireManager) -> None:
        self.folder = folder
        self.state, self.config = folder / "state", folder / "config"
        self.pool = folder / "pool"
        self.pool.mkdir()
        self.manager = manager
        self.token = manager.token()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "agent.log"

    def start(self, *more: str) -> None:
        """Start it, with the same words each time."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fastdl", "agent"),
                    *("--manager", self.manager.url, "--token", self.token),
                    *("--state", str(self.state), "--config-dir", str(self.config)),
                    *("--pool", f"images={self.pool}", *more),
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 30) -> int:
        """End it by a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    @property
    def keystore(self) -> Keystore:
        """The keystore that the agent made."""
        passphrase = load(self.config / "agent.properties")["keystore.passphrase"]
        return Keystore(self.config / "cloud.jks", Passphrase(passphrase))

    @property
    def pool_id(self) -> str:
        """The id of its pool, as its greeting says it."""
        hello = self.manager.wait(lambda: next(iter(self.manager.all(m.Hello)), None))
        return hello.inventory.pools[0].id

    def visible(self) -> list[str]:
        """The finished files of its pool."""
        return sorted(p.name for p in self.pool.iterdir() if p.name[0] != ".")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[WireManager]:
    """The other side of the wire."""
    with WireManager(tmp_path / "manager") as running:
        yield running


@pytest.fixture
def agent(tmp_path: Path, manager: WireManager) -> Iterator[Process]:
    """A started agent; whatever happens, it does not stay behind."""
    (tmp_path / "agent").mkdir()
    one = Process(tmp_path / "agent", manager)
    one.start()
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.kill()
        one.process.wait(10)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An origin with a template of 24 MiB."""
    with FaultOrigin({"/x.raw": Resource.of(CONTENT), "/s.raw": Resource.of(SMALL)}) as server:
        yield server


def _download(agent: Process, url: str, *, fence: int = 1, **changes: object) -> m.Command:
    transfer = m.Transfer(
        sources=(url,),
        allowed_cidrs=LOOPBACK,
        connect_timeout=5.0,
        stall_timeout=20.0,
        **{k: v for k, v in changes.items() if k in {"checksum", "headers", "limit_rate"}},  # type: ignore[arg-type]
    )
    args = m.DownloadArgs(
        template="t1",
        pool=str(changes.get("pool") or agent.pool_id),
        volume=str(changes.get("volume") or uuid.uuid4()),
        format="RAW",
        transfer=transfer,
    )
    job = str(changes.get("job") or uuid.uuid4())
    return m.Command(job=job, kind=m.Kind.DOWNLOAD, fence=fence, args=args)


def _slowly(origin: FaultOrigin, *, rate: float = 4e6) -> None:
    """Serve the large template slowly enough to do something in between."""
    origin.resources["/x.raw"].rules.append(Rule(when=When(), rate=rate))


def _done(result: m.JobResult) -> m.DownloadDone:
    assert isinstance(result.done, m.DownloadDone), result.failure
    return result.done


def test_a_fresh_host_enrols_and_says_what_it_has(agent: Process, manager: WireManager) -> None:
    """Keys, keystore and properties are made where there were none; nothing is world-readable."""
    host = manager.host()
    (hello,) = manager.all(m.Hello)
    (pool,) = hello.inventory.pools
    assert (hello.host_id, pool.name, pool.type, pool.error) == (host, "images", "Filesystem", None)
    assert pool.available > 0
    assert hello.inventory.certificates == ()
    assert hello.inventory.keystore_error is None
    assert set(hello.kinds) == set(m.Kind)
    assert manager.wait(lambda: next(iter(manager.all(m.Beat)), None))
    for path in (*agent.state.iterdir(), *agent.config.iterdir()):
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path


def test_a_download_is_done_reported_and_remembered(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G01: delivered again, after completion, under a higher fence: one download, same answer."""
    host = manager.host()
    command = _download(agent, origin.url("/x.raw"), checksum=DIGEST)
    for _ in range(3):
        manager.want(host, command)
    done = _done(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert (done.virtual_size, done.integrity) == (len(CONTENT), "strong")
    assert not done.already_present
    seen = len(origin.requests)
    manager.want(host, replace(command, fence=2))
    again = _done(manager.result(command.job, fence=2))
    assert again == done
    other = replace(command, job="another", fence=1)
    manager.want(host, other)
    assert _done(manager.result("another")).already_present
    assert len(origin.requests) == seen
    assert {p.job for p in manager.all(m.JobStarted)} == {command.job, "another"}


def test_two_jobs_for_one_volume_make_one_download(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Single-flight per (template, pool), also inside one host."""
    host = manager.host()
    first = _download(agent, origin.url("/x.raw"), checksum=DIGEST, volume="same")
    second = replace(first, job="second")
    manager.want(host, first, second)
    results = [_done(manager.result(first.job)), _done(manager.result("second"))]
    assert sorted(r.already_present for r in results) == [False, True]
    assert origin.sent < 1.5 * len(CONTENT)


def test_kill_minus_9_costs_little_and_needs_no_manager(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G02: the restarted agent goes on by itself and reports when the manager is back."""
    host = manager.host()
    _slowly(origin)
    command = _download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 2)
    agent.stop(signal.SIGKILL)
    assert agent.visible() == []
    manager.stop()
    origin.resources["/x.raw"].rules.clear()
    agent.start()
    assert agent.process is not None
    deadline = 60
    while not agent.visible() and deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.process.wait(0.25)
        deadline -= 1
    assert agent.visible(), agent.log.read_text()
    assert manager.all(m.JobResult) == []
    manager.start()
    done = _done(manager.result(command.job))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert origin.sent < 1.6 * len(CONTENT)


def test_a_worker_that_dies_fails_its_job_and_nothing_else(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G07: whatever a hostile image does to the process that reads it, the agent goes on."""
    host = manager.host()
    _slowly(origin)
    command = _download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    assert agent.process is not None
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text()
    os.kill(int(children.split()[0]), signal.SIGSEGV)
    result = manager.result(command.job)
    assert result.failure is not None
    failure = result.failure
    assert (failure.code, failure.retryable, failure.elsewhere) == (74, False, False)
    assert "SIGSEGV" in failure.message
    small = _download(agent, origin.url("/s.raw"))
    manager.want(host, small)
    assert _done(manager.result(small.job)).virtual_size == len(SMALL)


def test_a_job_missing_from_the_document_is_stopped_and_what_it_fetched_is_kept(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """The manager may only have given it to nobody for a moment; the next job goes on."""
    host = manager.host()
    _slowly(origin)
    command = _download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 2)
    manager.want(host)
    result = manager.result(command.job)
    assert result.failure is not None
    assert result.failure.code == 130
    assert agent.visible() == []
    origin.resources["/x.raw"].rules.clear()
    again = replace(command, job="again", fence=2)
    manager.want(host, again)
    done = _done(manager.result("again"))
    assert (agent.pool / done.install_path).read_bytes() == CONTENT
    assert origin.sent < 1.6 * len(CONTENT)
    args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume=command.args.volume)  # type: ignore[union-attr]
    manager.want(host, m.Command(job="remove", kind=m.Kind.REMOVE, fence=3, args=args))
    assert manager.result("remove").done == m.RemoveDone()
    left = {p.name for p in agent.pool.rglob("*") if p.is_file()}
    assert {name for name in left if not name.endswith(".lock")} == {"pool"}


def test_removing_a_copy_removes_what_an_unfinished_download_left(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A template that is deleted while it is fetched leaves nothing."""
    host = manager.host()
    _slowly(origin, rate=2e6)
    command = _download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume=command.args.volume)  # type: ignore[union-attr]
    manager.want(host, m.Command(job="remove", kind=m.Kind.REMOVE, fence=2, args=args))
    assert manager.result("remove").done == m.RemoveDone(was_present=False)
    left = {p.name for p in agent.pool.rglob("*") if p.is_file()}
    assert {name for name in left if not name.endswith(".lock")} == {"pool"}


def test_what_becomes_too_large_is_refused_before_a_byte_moves(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """By what the host's own probe finds: the origin may say something else by then."""
    host = manager.host()
    for limits, words in (
        ({"max_source_size": 1 << 20}, "the file at the origin has"),
        ({"max_virtual_size": 1 << 20}, "the disk has"),
    ):
        command = _download(agent, origin.url("/x.raw"))
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
    _slowly(origin, rate=3e6)
    url = origin.url("/x.raw") + "?token=qu3ry-s3cr3t"
    command = _download(agent, url, checksum=DIGEST, headers=(("Authorization", secret),))
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > 4 << 20)
    assert secret.encode() in _everything(agent.state), "it must survive a crash until then"
    _done(manager.result(command.job))
    failing = _download(agent, url.replace("/x.raw", "/no.raw"), headers=(("X", secret),))
    manager.want(host, command, failing)
    assert manager.result(failing.job).failure is not None
    found = _everything(agent.state) + _everything(agent.pool)
    assert b"s3cr3t" not in found.replace(CONTENT, b"")


def _everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_stale_fences_and_revisions_change_nothing(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A zombie manager's document is ignored; a higher fence is adopted without a restart."""
    host = manager.host()
    _slowly(origin)
    command = _download(agent, origin.url("/x.raw"), fence=5)
    manager.want(host, command, rev=100)
    origin.wait_for(lambda: origin.sent > 1 << 20)
    manager.want(host, rev=99)
    manager.want(host, replace(command, fence=4), rev=101)
    manager.want(host, replace(command, fence=9), rev=102)
    result = manager.result(command.job)
    assert result.fence == 9
    assert _done(result).virtual_size == len(CONTENT)
    assert len(manager.all(m.JobStarted)) == 1


def test_results_are_repeated_until_they_are_acknowledged(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """G03: the answer was lost, or the manager died before it wrote it down."""
    host = manager.host()
    manager.acknowledges = False
    command = _download(agent, origin.url("/s.raw"))
    manager.want(host, command)
    manager.result(command.job)
    manager.stop()
    manager.received.clear()
    manager.acknowledges = True
    manager.start()
    assert _done(manager.result(command.job)).virtual_size == len(SMALL)


def test_sigterm_ends_cleanly_and_the_job_goes_on_later(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A package upgrade in the middle of a download."""
    host = manager.host()
    _slowly(origin)
    command = _download(agent, origin.url("/x.raw"), checksum=DIGEST)
    manager.want(host, command)
    origin.wait_for(lambda: origin.sent > len(CONTENT) // 3)
    assert agent.stop() == 0
    assert manager.all(m.Goodbye)
    assert manager.all(m.JobResult) == []
    agent.start()
    assert _done(manager.result(command.job)).virtual_size == len(CONTENT)
    assert origin.sent < 1.7 * len(CONTENT)


def test_progress_comes_about_once_a_second(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Enough for a bar, little enough for ten thousand hosts."""
    host = manager.host()
    _slowly(origin, rate=3e6)
    command = _download(agent, origin.url("/x.raw"))
    manager.want(host, command)
    seconds = _done(manager.result(command.job)).seconds
    reports = [p for p in manager.all(m.Progress) if p.job == command.job]
    assert 1 <= len(reports) <= seconds + 3
    assert [p.done for p in reports] == sorted(p.done for p in reports)


def test_certificates_follow_the_document(
    agent: Process, manager: WireManager, certs: CertLab
) -> None:
    """Each alias for itself; replaced, removed, and an inventory that tells the truth."""
    host = manager.host()
    pem, other = certs.leaf("self-signed").cert_file.read_text(), certs.ca.cert_file.read_text()

    def run(job: str, install: dict[str, str], remove: tuple[str, ...] = ()) -> m.CertificatesDone:
        wanted = tuple(m.WantedCertificate(alias=a, sha256="", pem=p) for a, p in install.items())
        args = m.CertificatesArgs(install=wanted, remove=remove)
        manager.want(host, m.Command(job=job, kind=m.Kind.CERTIFICATES, fence=1, args=args))
        done = manager.result(job).done
        assert isinstance(done, m.CertificatesDone)
        return done

    done = run("c1", {"one": pem, "cloud": pem, "two": "nonsense"})
    codes = {o.alias: o.failure.code if o.failure else 0 for o in done.outcomes}
    assert codes == {"one": 0, "cloud": 53, "two": 52}
    assert [c.alias for c in done.certificates] == ["one"]
    done = run("c2", {"one": other, "two": pem})
    assert {c.alias: c.subject for c in done.certificates} == {
        "one": "CN=ca",
        "two": "CN=self-signed",
    }
    done = run("c3", {}, remove=("one", "never-there"))
    assert all(o.failure is None for o in done.outcomes)
    assert [c.alias for c in done.certificates] == ["two"]
    agent.keystore.delete("two")
    assert manager.wait(
        lambda: any(not r.inventory.certificates for r in manager.all(m.InventoryReport)) or None
    )


def test_looks_at_the_keystore_are_numbered_over_restarts(
    agent: Process, manager: WireManager, certs: CertLab
) -> None:
    """Who hears of them tells the later from the earlier, whatever order they come in."""
    host = manager.host()

    def last() -> int:
        return max(r.inventory.keystore_revision for r in (*manager.all(m.Hello), *reports()))

    def reports() -> list[m.InventoryReport]:
        return manager.all(m.InventoryReport)

    before, count = last(), len(reports())
    assert before > 0
    manager.say(host, m.InventoryWanted())  # answered though nothing is new
    manager.wait(lambda: len(reports()) > count or None)
    assert last() > before

    wanted = m.WantedCertificate(alias="a", sha256="", pem=certs.ca.cert_file.read_text())
    args = m.CertificatesArgs(install=(wanted,))
    before = last()
    manager.want(host, m.Command(job="c1", kind=m.Kind.CERTIFICATES, fence=1, args=args))
    done = manager.result("c1").done
    assert isinstance(done, m.CertificatesDone)
    assert done.keystore_revision > before
    manager.wait(lambda: last() > done.keystore_revision or None)

    before, hellos = last(), len(manager.all(m.Hello))
    agent.stop()
    agent.start()
    manager.wait(lambda: len(manager.all(m.Hello)) > hellos or None)
    assert manager.all(m.Hello)[-1].inventory.keystore_revision > before


def test_a_wiped_keystore_is_noticed_and_filled_again(
    agent: Process, manager: WireManager, certs: CertLab
) -> None:
    """K10: CloudStack's keystore-setup removes cloud.* when its request for a certificate fails."""
    host = manager.host()
    agent.keystore.import_certificate("mirror", certs.ca.cert_file.read_text())

    def reported(count: int) -> bool | None:
        found = manager.all(m.InventoryReport)
        return (found and len(found[-1].inventory.certificates) == count) or None

    assert manager.wait(lambda: reported(1))
    (agent.config / "cloud.jks").unlink()
    (agent.config / "agent.properties").unlink()
    assert manager.wait(lambda: reported(0))
    assert manager.all(m.InventoryReport)[-1].inventory.keystore_error is None
    wanted = m.WantedCertificate(alias="mirror", sha256="", pem=certs.ca.cert_file.read_text())
    args = m.CertificatesArgs(install=(wanted,))
    manager.want(host, m.Command(job="again", kind=m.Kind.CERTIFICATES, fence=1, args=args))
    done = manager.result("again").done
    assert isinstance(done, m.CertificatesDone)
    assert [(o.alias, o.failure) for o in done.outcomes] == [("mirror", None)]
    assert [i.alias for i in agent.keystore.items()] == ["mirror"]


def test_a_revoked_certificate_ends_the_downloads_that_relied_on_it(
    agent: Process, manager: WireManager, certs: CertLab
) -> None:
    """T14: within five seconds, and a download trusted by another alias is not touched."""
    host = manager.host()
    revoked, kept = certs.leaf("self-signed"), certs.leaf("good")
    agent.keystore.import_certificate("revoked", revoked.cert_file.read_text())
    agent.keystore.import_certificate("kept", certs.ca.cert_file.read_text())
    with (
        FaultOrigin({"/x.raw": Resource.of(CONTENT)}, tls=revoked.server_context()) as one,
        FaultOrigin({"/x.raw": Resource.of(CONTENT)}, tls=kept.server_context()) as two,
    ):
        _slowly(one, rate=5e5)  # a connection; four of them take 12 s
        _slowly(two, rate=6e5)
        first, second = (_download(agent, o.url("/x.raw")) for o in (one, two))
        manager.want(host, first, second)
        for server in (one, two):
            server.wait_for(lambda server=server: server.sent > 1 << 20)
        args = m.CertificatesArgs(remove=("revoked",))
        revoke = m.Command(job="r", kind=m.Kind.CERTIFICATES, fence=1, args=args)
        manager.want(host, first, second, revoke)
        manager.result("r")
        sent = one.sent
        result = manager.result(first.job, timeout=15)
        assert result.failure is not None
        assert result.failure.code == 14, result.failure
        assert result.done is None
        assert one.sent < len(CONTENT)
        assert one.sent - sent < 5 * 4 * 5e5
        assert _done(manager.result(second.job)).virtual_size == len(CONTENT)
    assert len(agent.visible()) == 1


def test_a_check_says_who_vouches_for_an_origin(
    agent: Process, manager: WireManager, certs: CertLab
) -> None:
    """Before a download: would this host trust it, and because of which alias?"""
    host = manager.host()
    identity = certs.leaf("self-signed")

    def check(job: str, url: str) -> m.CheckDone:
        transfer = m.Transfer(sources=(url,), allowed_cidrs=LOOPBACK)
        args = m.CheckArgs(transfer=transfer)
        manager.want(host, m.Command(job=job, kind=m.Kind.CHECK, fence=1, args=args))
        done = manager.result(job).done
        assert isinstance(done, m.CheckDone)
        return done

    with FaultOrigin({"/x.raw": Resource.of(SMALL)}, tls=identity.server_context()) as origin:
        refused = check("k1", origin.url("/x.raw"))
        assert not refused.accepted
        assert "keystore" in refused.reason
        agent.keystore.import_certificate("mirror", identity.cert_file.read_text())
        accepted = check("k2", origin.url("/x.raw"))
        assert (accepted.accepted, accepted.accepted_by) == (True, "mirror")


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
            command = _download(agent, origin.url("/x.raw"))
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
        33: _download(agent, url, pool=str(uuid.uuid4())),
        2: _download(agent, url, volume="../outside"),
        15: _download(agent, "file:///etc/hostname"),
        71: m.Command(job="u", kind="reboot", fence=1, args=m.UnknownArgs()),
    }
    manager.want(host, *commands.values())
    for code, command in commands.items():
        failure = manager.result(command.job).failure
        assert failure is not None
        assert failure.code == code, failure
    assert origin.requests == []


def test_a_copy_is_removed_with_its_marker(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """Absent is success."""
    host = manager.host()
    command = _download(agent, origin.url("/s.raw"), volume="v1")
    manager.want(host, command)
    _done(manager.result(command.job))
    for job, present in (("r1", True), ("r2", False)):
        args = m.RemoveArgs(template="t1", pool=agent.pool_id, volume="v1", install_path="v1")
        manager.want(host, m.Command(job=job, kind=m.Kind.REMOVE, fence=1, args=args))
        assert manager.result(job).done == m.RemoveDone(was_present=present)
    assert agent.visible() == []


def test_a_device_holds_one_template_at_a_time(
    tmp_path: Path, agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """A block device as primary storage: filled, kept, freed, and never shown half written."""
    host = manager.host()
    with loop_device(tmp_path, size=32 * 1024 * 1024) as device:
        device.fill(0xA5, 4 << 20)
        assert agent.stop() == 0
        manager.received.clear()
        agent.start("--pool", f"fast={device.path}")
        hello = manager.wait(lambda: next(iter(manager.all(m.Hello)), None))
        pool = next(p for p in hello.inventory.pools if p.name == "fast")
        assert (pool.type, pool.capacity) == ("Block", 32 * 1024 * 1024)
        first = _download(agent, origin.url("/x.raw"), pool=pool.id, checksum=DIGEST)
        manager.want(host, first)
        assert _done(manager.result(first.job)).install_path == device.path
        assert device.read(len(CONTENT)) == CONTENT
        second = _download(agent, origin.url("/s.raw"), pool=pool.id)
        manager.want(host, second)
        failure = manager.result(second.job).failure
        assert failure is not None
        assert (failure.code, failure.retryable) == (32, True)
        args = m.RemoveArgs(template="t1", pool=pool.id, volume=_volume(first))
        manager.want(host, m.Command(job="rm", kind=m.Kind.REMOVE, fence=1, args=args))
        assert manager.result("rm").done == m.RemoveDone(was_present=True)
        assert device.read(1 << 20) == bytes(1 << 20)
        third = _download(agent, origin.url("/s.raw"), pool=pool.id)
        manager.want(host, third)
        assert _done(manager.result(third.job)).virtual_size == len(SMALL)
        assert device.read(len(SMALL)) == SMALL
        agent.stop()


def test_a_device_is_resumed_after_a_kill_and_blank_after_a_stop(
    tmp_path: Path, agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """R01 on a device: its journal is in the agent's state, inside the confinement."""
    host = manager.host()
    with loop_device(tmp_path, size=32 * 1024 * 1024) as device:
        assert agent.stop() == 0
        manager.received.clear()
        agent.start("--pool", f"fast={device.path}")
        hello = manager.wait(lambda: next(iter(manager.all(m.Hello)), None))
        pool = next(p.id for p in hello.inventory.pools if p.name == "fast")
        _slowly(origin)
        command = _download(agent, origin.url("/x.raw"), pool=pool, checksum=DIGEST)
        manager.want(host, command)
        origin.wait_for(lambda: origin.sent > len(CONTENT) * 2 // 3)
        agent.stop(signal.SIGKILL)
        assert device.read(1 << 20) == bytes(1 << 20)
        agent.start("--pool", f"fast={device.path}")
        _done(manager.result(command.job))
        assert device.read(len(CONTENT)) == CONTENT
        assert origin.sent < 1.6 * len(CONTENT)
        args = m.RemoveArgs(template="t1", pool=pool, volume=_volume(command))
        manager.want(host, m.Command(job="rm", kind=m.Kind.REMOVE, fence=1, args=args))
        manager.result("rm")
        sent = origin.sent
        second = _download(agent, origin.url("/x.raw"), pool=pool)
        manager.want(host, second)
        origin.wait_for(lambda: origin.sent > sent + len(CONTENT) // 3)
        manager.want(host)
        failure = manager.result(second.job).failure
        assert failure is not None
        assert failure.code == 130
        assert device.read(1 << 20) == bytes(1 << 20)
        agent.stop()


def _volume(command: m.Command) -> str:
    assert isinstance(command.args, m.DownloadArgs)
    return command.args.volume


def test_no_secret_is_left_in_logs_journal_or_arguments(
    agent: Process, manager: WireManager, origin: FaultOrigin
) -> None:
    """T18: headers live in the journal only while their job runs."""
    host = manager.host()
    command = _download(
        agent, origin.url("/s.raw?sig=canary-query"), headers=(("X-Token", "canary-header"),)
    )
    manager.want(host, command)
    _done(manager.result(command.job))
    assert agent.stop() == 0
    assert origin.requests[0].fields["x-token"] == "canary-header"
    with sqlite3.connect(agent.state / "journal.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in agent.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"canary-header" not in data, path
            assert b"canary-query" not in data, path


def test_a_second_agent_on_the_same_state_is_refused(agent: Process, manager: WireManager) -> None:
    """Two agents with one identity would fight over jobs."""
    manager.host()
    twin = Process.__new__(Process)
    twin.__dict__.update(agent.__dict__)
    twin.start()
    assert twin.process is not None
    assert twin.process.wait(30) == 32


def test_a_token_of_another_manager_is_refused(tmp_path: Path, manager: WireManager) -> None:
    """The fingerprint in the token decides whom a fresh host believes."""
    with WireManager(tmp_path / "stranger") as stranger:
        (tmp_path / "agent").mkdir()
        lost = Process(tmp_path / "agent", stranger)
        lost.manager = manager
        lost.start()
        assert lost.process is not None
        assert lost.process.wait(30) == 71
    assert manager.all(m.Hello) == []


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
