# SPDX-License-Identifier: Apache-2.0
"""Which spellings of a certificate are understood, and how it is shown."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import CertRejectedError
from fastdl.lab.certs import self_signed
from fastdl.manager.certificates.x509text import describe, java_name, read_upload

PEM = self_signed()
BODY = "".join(line for line in PEM.splitlines() if "-----" not in line)
OTHER = self_signed("second")


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        BODY,
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", " "),
        PEM.replace("\n", ""),
        f"\n {PEM}\n",
        "\n".join(BODY[i : i + 64] for i in range(0, len(BODY), 64)),
    ],
    ids=["pem", "bare", "crlf", "spaces", "joined", "padded", "wrapped"],
)
def test_spellings_that_operators_paste(text: str) -> None:
    """All mean the same certificate; what hosts get is normalised."""
    assert read_upload(text, now=time.time()).pem == PEM


def test_a_bundle_keeps_its_order() -> None:
    """The first certificate names the alias."""
    read = read_upload(PEM + OTHER, now=time.time())
    assert read.pem == PEM + OTHER
    assert read.sha256 == read_upload(PEM, now=time.time()).sha256


KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


@pytest.mark.parametrize(
    "text",
    ["", "garbage!", "AAAA", PEM + KEY.decode(), KEY.decode(),
     self_signed(days=1, start=-3), self_signed(start=3), "A" * 70_000],
    ids=["empty", "noise", "base64", "key", "only key", "old", "new", "huge"],
)  # fmt: skip
def test_what_cannot_be_pushed_is_refused(text: str) -> None:
    """Each is refused before any host hears of it."""
    with pytest.raises(CertRejectedError):
        read_upload(text, now=time.time())


@given(st.text(max_size=300))
def test_arbitrary_text_is_refused_with_one_class(text: str) -> None:
    """Hostile text raises nothing else."""
    with pytest.raises(CertRejectedError):
        read_upload(text, now=0)


def test_it_is_shown_as_java_shows_it() -> None:
    """Scripts compare these strings with what CloudStack printed before."""
    shown = describe(PEM)
    assert shown["subject"] == "CN=mirror.example, O=Org"
    assert shown["serialnum"] == "SerialNumber: 0e:f7:0d:fd"
    assert shown["validity"].startswith("From: [")
    assert " UTC " in shown["validity"]
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CS"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A, B"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b"),
        ]
    )
    assert java_name(name) == 'EMAILADDRESS=a@b, O="A, B", C=CS'
