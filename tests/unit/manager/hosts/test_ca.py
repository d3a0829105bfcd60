# SPDX-License-Identifier: Apache-2.0
"""Does the agents' port do what its certificate authority promises?"""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.ca import Authority, Peer, csr_key, open_authority, restore
from fastdl.wire.messages import MANAGER_NAME
from tests.env.fake_agent import make_csr


def _client(authority: Authority, folder: Path, host: str) -> tuple[ssl.SSLContext, str]:
    """A host's TLS context, and the hash of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem, key_hash = authority.sign_host(make_csr(key), host)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "host.pem").write_bytes(private + pem.encode())
    context = ssl.create_default_context(cadata=authority.pem)
    context.load_cert_chain(folder / "host.pem")
    return context, key_hash


def _shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection in memory, after the handshake and one exchange."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    left = [here, there]
    for _ in range(10):
        for end in list(left):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(end)
    assert not left
    there.write(b"x")
    assert here.read(1) == b"x"
    return there, here


def test_a_host_is_who_its_certificate_names_and_gets_no_ticket(tmp_path: Path) -> None:
    """A ticket would be made for each of thousands of hosts and used by none."""
    authority = open_authority(tmp_path / "ca")
    context, key_hash = _client(authority, tmp_path, "host-1")
    there, here = _shake_hands(authority.server_context(), context, MANAGER_NAME)
    der = there.getpeercert(binary_form=True)
    assert der is not None
    until = x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
    assert authority.peer(der) == Peer("host-1", key_hash, authority.sha256, until)
    assert here.version() == "TLSv1.3"
    assert here.session is None or not here.session.has_ticket


def test_a_host_cannot_play_the_manager(tmp_path: Path) -> None:
    """The manager's name is in no host's certificate, whatever the host calls itself."""
    authority = open_authority(tmp_path / "ca")
    context, _ = _client(authority, tmp_path, MANAGER_NAME)
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(tmp_path / "host.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _shake_hands(impostor, context, MANAGER_NAME)


def test_the_authority_is_the_same_at_the_next_start(tmp_path: Path) -> None:
    """Another one would lock every host out."""
    assert open_authority(tmp_path / "ca").sha256 == open_authority(tmp_path / "ca").sha256


def test_a_request_that_cannot_be_parsed_is_refused() -> None:
    """Whatever it is: the library has exceptions of many kinds for that."""
    der = x509.load_pem_x509_csr(make_csr(ec.generate_private_key(ec.SECP256R1())).encode())
    good = der.public_bytes(serialization.Encoding.DER)
    at = good.index(b"\x02\x01\x00") + 2  # the version
    for bad in (good[:at] + b"\x07" + good[at + 1 :], good[:-9], b"", bytes(100)):
        with pytest.raises(AgentRefusedError):
            csr_key(ssl.DER_cert_to_PEM_cert(bad).replace("CERTIFICATE", "CERTIFICATE REQUEST"))


def test_a_certificate_that_another_has_verified_is_checked_again(tmp_path: Path) -> None:
    """Its issuer, its dates and what it is for; a name alone is worth nothing."""
    authority, other = open_authority(tmp_path / "ca"), open_authority(tmp_path / "other")
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()))
    pem, key_hash = authority.sign_host(csr, "host-1")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    begins = certificate.not_valid_before_utc.timestamp()
    until = certificate.not_valid_after_utc.timestamp()
    peer = Peer("host-1", key_hash, authority.sha256, until)
    assert authority.client(pem, now=begins) == authority.client(pem, now=until - 1) == peer
    foreign, _ = other.sign_host(csr, "host-1")
    server = authority.sign_nats_server().decode()
    for bad, now in [
        *((pem, begins - 1), (pem, until)),
        *((text, begins) for text in (foreign, server, authority.pem, "", pem[:200], "\ud800")),
    ]:
        with pytest.raises(AgentRefusedError):
            authority.client(bad, now=now)
    authority.take(authority.begun())
    authority.take(authority.finished())
    with pytest.raises(AgentRefusedError, match="replaced"):
        authority.client(pem, now=begins)


def test_a_rotation_is_followed_whoever_wrote_the_files(tmp_path: Path) -> None:
    """What counts is what this process knew; the former CA's key is nowhere afterwards."""
    authority = open_authority(tmp_path / "ca")
    former = authority.current
    for change, count in ((authority.begun, 2), (authority.finished, 1)):
        files = change()
        restore(tmp_path / "ca", files)
        assert authority.take(files)
        assert len(authority.cas) == count
        assert not authority.take(files)
        following = authority.newest
    assert authority.current == following != former
    assert open_authority(tmp_path / "ca").pem == authority.pem
    kept = "".join(path.read_text() for path in (tmp_path / "ca").iterdir())
    assert former.private_pem not in kept
