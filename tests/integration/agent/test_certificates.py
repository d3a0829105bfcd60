# SPDX-License-Identifier: Apache-2.0
"""Does a host's keystore follow its manager's documents, and do downloads follow the keystore?"""

from __future__ import annotations

from fastdl.wire import messages as m
from tests.env.agent_process import (
    CONTENT,
    LOOPBACK,
    SMALL,
    Process,
    done_of,
    download,
    slowly,
)
from tests.env.certs import CertLab
from tests.env.origin import FaultOrigin, Resource
from tests.env.wire_manager import WireManager


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
        slowly(one, rate=5e5)  # a connection; four of them take 12 s
        slowly(two, rate=6e5)
        first, second = (download(agent, o.url("/x.raw"), max_connections=4) for o in (one, two))
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
        assert done_of(manager.result(second.job)).virtual_size == len(CONTENT)
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
