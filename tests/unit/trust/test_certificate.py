# SPDX-License-Identifier: Apache-2.0
"""Which spellings of a certificate are understood, and what is refused with which reason? (K08)"""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import CertRejectedError
from fastdl.trust.certificate import MAX_TEXT, parse, read, read_bundle, weakness
from tests.env.certs import CertLab


def _spellings(pem: str, der: bytes) -> dict[str, str | bytes]:
    bare = base64.b64encode(der).decode()
    return {
        "PEM": pem,
        "CRLF": pem.replace("\n", "\r\n"),
        "one line": pem.replace("\n", ""),
        "spaces for line ends": pem.replace("\n", " "),
        "text around it": f"subject=mirror\n{pem}\nthe end",
        "bare base64": bare,
        "bare base64 in lines": "\n".join(bare[i : i + 64] for i in range(0, len(bare), 64)),
        "DER": der,
    }


@pytest.mark.parametrize("spelling", list(_spellings("", b"")))
def test_every_usual_spelling_gives_the_same_certificate(certs: CertLab, spelling: str) -> None:
    """K08: what CloudStack's documentation, browsers and openssl hand out is all accepted."""
    identity = certs.leaf("self-signed")
    der = identity.certificate.public_bytes(Encoding.DER)
    (found,) = read_bundle(_spellings(identity.cert_file.read_text(), der)[spelling])
    assert found.der == der
    assert read_bundle(found.pem())[0] == found


def test_a_bundle_gives_each_certificate_in_order(certs: CertLab) -> None:
    """Chain files hold the leaf and its issuers."""
    leaf = certs.leaf("with-intermediate")
    bundle = read_bundle(leaf.chain.read_text())
    assert [c.subject for c in bundle] == ["CN=with-intermediate", "CN=middle"]
    assert [c.is_ca for c in bundle] == [False, True]


def test_each_refusal_names_its_reason(certs: CertLab) -> None:
    """K08: the administrator reads why, without a tool."""
    good = certs.leaf("good")
    pem = good.cert_file.read_text()
    refused = {
        "expired on": certs.leaf("expired").cert_file.read_text(),
        "not valid before": certs.leaf("not-yet-valid").cert_file.read_text(),
        "1024 bits": certs.leaf("rsa-1024").cert_file.read_text(),
        "SHA1": certs.leaf("sha-1").cert_file.read_text(),
        "private key": pem + good.key.read_text(),
        "longer than": "A" * (MAX_TEXT + 1),
        "neither PEM": "not a certificate!",
        "cannot be parsed": base64.b64encode(b"\x30\x03\x02\x01\x01").decode(),
        "do not match": pem.replace("END CERTIFICATE", "END NOTHING"),
        "CERTIFICATE REQUEST block": pem.replace("CERTIFICATE-", "CERTIFICATE REQUEST-"),
    }
    for reason, text in refused.items():
        with pytest.raises(CertRejectedError, match=reason):
            read_bundle(text)


def openssl(*words: str, text: str) -> str:
    """What openssl makes of *text*."""
    done = subprocess.run(
        ["openssl", *words], input=text, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


def test_what_openssl_and_editors_make_of_a_certificate_is_read(certs: CertLab) -> None:
    """K08: the same certificate, whatever went around it."""
    leaf = certs.leaf("with-intermediate")
    pem, chain = leaf.cert_file.read_text(), leaf.chain.read_text()
    one = [c.sha256 for c in read_bundle(pem)]
    bundle = [c.sha256 for c in read_bundle(chain)]
    assert (len(one), len(bundle)) == (1, 2)
    trusted = openssl("x509", "-trustout", "-addtrust", "serverAuth", text=pem)
    assert "TRUSTED CERTIFICATE" in trusted
    command = ("crl2pkcs7", "-nocrl", "-certfile", str(leaf.chain))
    in_pkcs7 = openssl(*command, text="")
    body = "".join(in_pkcs7.splitlines()[1:-1])
    assert [c.sha256 for c in read_bundle(trusted)] == one
    assert [c.sha256 for c in read_bundle(openssl("x509", "-text", text=pem))] == one
    assert [c.sha256 for c in read_bundle("\ufeff# of site B\n" + pem + "# the end\n")] == one
    assert [c.sha256 for c in read_bundle(pem.encode("utf-16"))] == one
    assert [c.sha256 for c in read_bundle(pem.replace("\n", "\\n"))] == one
    assert [c.sha256 for c in read_bundle(pem * 9)] == one
    for text in (in_pkcs7, body, base64.b64decode(body)):
        assert sorted(c.sha256 for c in read_bundle(text)) == sorted(bundle)


def test_every_root_of_the_system_may_be_an_anchor() -> None:
    """Signed by itself with SHA-1, number 0, version 1: nobody verifies what is trusted anyway."""
    folder = Path("/usr/share/ca-certificates/mozilla")
    if not folder.is_dir():
        pytest.skip("ca-certificates is not installed")
    now = datetime.now(UTC)
    refused = {}
    for path in folder.iterdir():
        (found,) = read(path.read_bytes())
        problem = weakness(found)
        if problem and not found.dates_problem(now):
            refused[path.name] = problem
    assert refused == {}


def test_a_key_larger_than_any_in_use_is_refused() -> None:
    """A handshake with it would keep a host busy for seconds; TLS libraries stop at this size."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "large")])
    start = datetime.now(UTC)
    signer = ec.generate_private_key(ec.SECP256R1())
    for bits, accepted in ((16_384, True), (16_385, False)):
        key = rsa.RSAPublicNumbers(65_537, (1 << bits - 1) + 1).public_key()
        made = (
            x509.CertificateBuilder(name, name, key, 7, start, start + timedelta(days=1))
            .sign(signer, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )
        (found,) = read(made)
        assert (weakness(found) is None) == accepted


def test_bytes_after_a_certificate_are_refused(certs: CertLab) -> None:
    """Two readers could disagree about what follows."""
    der = certs.leaf("good").certificate.public_bytes(Encoding.DER)
    with pytest.raises(CertRejectedError):
        read_bundle(der + b"\0")


def test_the_dates_are_checked_at_the_moment_given(certs: CertLab) -> None:
    """G04: the host's clock decides, and the message shows it."""
    identity = certs.leaf("good")
    found = parse(identity.certificate.public_bytes(Encoding.DER))
    assert found.dates_problem(found.not_before) is None
    assert found.dates_problem(found.not_after) is None
    problem = found.dates_problem(found.not_after + timedelta(seconds=1))
    assert problem is not None
    assert "this host's clock" in problem


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_rejected(data: bytes) -> None:
    """No input of a tenant leads to anything but the one error class."""
    with pytest.raises(CertRejectedError):
        read_bundle(data)
