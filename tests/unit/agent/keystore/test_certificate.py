# SPDX-License-Identifier: Apache-2.0
"""Which spellings of a certificate are understood, and what is refused with which reason? (K08)"""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent.keystore.certificate import MAX_TEXT, parse, read_bundle
from fastdl.errors import CertRejectedError
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
        "holds 11 certificates": pem * 11,
        "neither PEM": "not a certificate!",
        "cannot be parsed": base64.b64encode(b"\x30\x03\x02\x01\x01").decode(),
        "do not match": pem.replace("END CERTIFICATE", "END NOTHING"),
        "CERTIFICATE REQUEST block": pem.replace("CERTIFICATE-", "CERTIFICATE REQUEST-"),
    }
    for reason, text in refused.items():
        with pytest.raises(CertRejectedError, match=reason):
            read_bundle(text)


def test_bytes_after_a_certificate_are_refused(certs: CertLab) -> None:
    """Two readers could disagree about what follows."""
    der = certs.leaf("good").certificate.public_bytes(Encoding.DER)
    with pytest.raises(CertRejectedError):
        read_bundle(der + b"\0")


def test_the_dates_are_judged_at_the_moment_given(certs: CertLab) -> None:
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
