# SPDX-License-Identifier: Apache-2.0
"""What does revoking a certificate do, whenever it comes? (K09, on a real agent and keystore)"""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives import hashes

from fastdl.wire import messages as m
from tests.env.agent_process import Process
from tests.env.certs import CertLab, Identity
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.wire_manager import WireManager

CONTENT = pseudo_random(31, 12 << 20)


class Host:
    """A connected agent, and what a manager tells it."""

    def __init__(self, manager: WireManager, agent: Process) -> None:
        self.manager = manager
        self.agent = agent
        self.id = manager.host()
        self._ids = itertools.count(1)
        self._wanted: list[m.Command] = []

    def tell(self, kind: m.Kind, args: m.Args) -> str:
        """Add a command to the host's document."""
        job = f"j{next(self._ids)}"
        self._wanted.append(m.Command(job=job, kind=kind, fence=1, args=args))
        self.manager.want(self.id, *self._wanted)
        return job

    def certificates(self, **args: tuple[object, ...]) -> m.CertificatesDone:
        """Install or remove aliases; what became of it."""
        job = self.tell(m.Kind.CERTIFICATES, m.CertificatesArgs(**args))  # type: ignore[arg-type]
        done = self.manager.result(job).done
        assert isinstance(done, m.CertificatesDone)
        assert all(outcome.failure is None for outcome in done.outcomes), done
        return done

    def install(self, alias: str, leaf: Identity) -> None:
        """Upload a certificate."""
        pem = leaf.cert_file.read_text()
        sha256 = leaf.certificate.fingerprint(hashes.SHA256()).hex()
        wanted = m.WantedCertificate(alias=alias, sha256=sha256, pem=pem)
        done = self.certificates(install=(wanted,))
        assert alias in {c.alias for c in done.certificates}

    def revoke(self, alias: str) -> m.CertificatesDone:
        """Revoke it; it must be gone."""
        done = self.certificates(remove=(alias,))
        assert alias not in {c.alias for c in done.certificates}
        assert alias not in {item.alias for item in self.agent.keystore.items()}
        return done

    def download(self, url: str) -> str:
        """Begin a download."""
        transfer = m.Transfer(sources=(url,), allowed_cidrs=("127.0.0.0/8",), connect_timeout=5.0)
        volume = f"v{next(self._ids)}"
        args = m.DownloadArgs(
            template=volume, pool=self.agent.pool_id, volume=volume, format="RAW", transfer=transfer
        )
        return self.tell(m.Kind.DOWNLOAD, args)

    def outcome(self, job: str) -> int:
        """0, or the code with which it failed."""
        result = self.manager.result(job)
        return result.failure.code if result.failure else 0


@pytest.fixture
def host(manager: WireManager, agent: Process) -> Host:
    """A host that is connected and trusts nobody."""
    return Host(manager, agent)


def test_k09_revoking_what_is_not_there_is_done_already(host: Host, certs: CertLab) -> None:
    """K09: idempotent, with an empty keystore, beside others, and a hundred times."""
    host.revoke("never-there")
    host.install("kept", certs.leaf("good"))
    for _ in range(3):
        done = host.revoke("never-there")
        assert [(o.alias, o.failure) for o in done.outcomes] == [("never-there", None)]
    assert [item.alias for item in host.agent.keystore.items()] == ["kept"]


def test_k09_revoked_in_the_middle_of_a_download_and_uploaded_again(
    host: Host, certs: CertLab
) -> None:
    """K09: the only anchor goes while a download uses it; after its return the next one works."""
    leaf = certs.leaf("self-signed")
    host.install("mirror", leaf)
    slow = [Rule(rate=1.5e5)]  # whatever else the machine does, it lasts longer than a revocation
    resource = Resource.of(CONTENT, rules=slow)
    with FaultOrigin({"/x.raw": resource}, tls=leaf.server_context()) as origin:
        url = origin.url("/x.raw")
        first = host.download(url)
        origin.wait_for(lambda: origin.sent > 1 << 20)
        host.revoke("mirror")
        assert host.outcome(first) == 14, "a download outlived the trust it rested on"
        assert host.agent.visible() == []

        # The only anchor is gone: an empty keystore vouches for nobody.
        resource.rules.clear()
        assert host.outcome(host.download(url)) == 14

        host.revoke("mirror")
        host.install("mirror", leaf)
        assert host.outcome(host.download(url)) == 0
    (name,) = host.agent.visible()
    assert (host.agent.pool / name).read_bytes() == CONTENT
