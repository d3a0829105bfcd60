# SPDX-License-Identifier: Apache-2.0
"""Who signed this? Detached CMS (PKCS#7, S/MIME) signatures by X.509 certificates.

``openssl cms -verify`` checks the signature and the chain: cryptography makes CMS signatures, but
does not verify any. The keyring is PEM certificates: a signer's own, or an authority's; only these
are trusted, none of the system's. Digests of SHA-2 and SHA-3 count.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastdl.errors import UsageError
from fastdl.publishers.signer import MAX_SIGNATURE, Content, Signer, printable
from fastdl.publishers.verifier import STDIN, run_verifier

if TYPE_CHECKING:
    from cryptography import x509

MARK: Final = b"-----BEGIN CERTIFICATE-----"
_PEM: Final = re.compile(
    rb"\s*-----BEGIN (CMS|PKCS7)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----\s*"
)
_MAX_CERTIFICATES: Final = 256
_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_NIST_HASHES: Final = "2.16.840.1.101.3.4.2."
_STRONG: Final = frozenset(f"{_NIST_HASHES}{n}" for n in (1, 2, 3, 6, 8, 9, 10))
"""SHA-256, -384, -512, -512/256 and SHA3-256, -384, -512 (NIST's arc of hash algorithms)."""


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in PEM *data*; UsageError if there are none, or one is not readable."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion):
        raise UsageError("the keyring has a certificate that cannot be read") from None
    if len(found) > _MAX_CERTIFICATES:
        raise UsageError(f"a keyring has at most {_MAX_CERTIFICATES} certificates")
    return tuple(found)


def verify(content: Content, signature: bytes, trusted: tuple[x509.Certificate, ...]) -> Signer:
    """The certificate that made *signature* of *content*: one of *trusted*, or issued below one
    for signing. IntegrityError if there is none; UsageError: there is no openssl."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    program = shutil.which("openssl")
    if program is None:
        raise UsageError("CMS signatures are checked by openssl, which is not installed")
    der = _der_of(signature) if len(signature) <= MAX_SIGNATURE else None
    if der is None:
        raise content.refused("is none of CMS")
    if not has_strong_digests(der):
        raise content.refused("is damaged, holds its own text, or is made with a weak hash")
    with tempfile.TemporaryDirectory(prefix="fastdl-keys-") as name:
        folder = Path(name)
        folder.joinpath("signature").write_bytes(der)
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in trusted)
        folder.joinpath("trusted").write_bytes(pem)
        command = [
            *(program, "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature"),
            *("-content", STDIN, "-CAfile", "trusted", "-no-CApath", "-no-CAstore"),
            *("-partial_chain", "-purpose", "any", "-auth_level", "2"),
            *("-out", "/dev/null", "-signer", "signer"),
        ]
        outcome = run_verifier(command, content, home=name)
        made_by = folder / "signer"
        if outcome.code != 0 or not made_by.exists():
            raise content.refused(
                "is wrong, or of a certificate that the keyring does not vouch for"
            )
        signers = x509.load_pem_x509_certificates(made_by.read_bytes())
    for signer in signers:
        if signer not in trusted and not _may_sign(signer):
            raise content.refused("is of a certificate that was not issued for signing")
    from cryptography.hazmat.primitives import hashes

    return Signer(
        signers[0].fingerprint(hashes.SHA256()).hex().upper(),
        printable(signers[0].subject.rfc4514_string()),
    )


def _der_of(signature: bytes) -> bytes | None:
    """The signature in DER, from either form; None if it is neither."""
    import binascii

    if (match := _PEM.fullmatch(signature)) is not None:
        try:
            return binascii.a2b_base64(match[2])
        except binascii.Error:
            return None
    return signature if signature[:1] == b"\x30" else None


def has_strong_digests(data: bytes) -> bool:
    """Whether every signer of the CMS *data* used a strong hash, and the text is elsewhere."""
    from fastdl.model import der

    try:
        kind, inside = der.read_one(der.definite(data)).expect(der.SEQUENCE).children()
        if kind.oid() != _SIGNED_DATA:
            return False
        version, _, encapsulated, *_, signers = inside.only_child().children()
        version.integer()
        if len(encapsulated.children()) != 1:
            return False
        infos = signers.expect(der.SET).children()
        used = {info.children()[2].children()[0].oid() for info in infos}
    except (der.DerError, ValueError, IndexError):
        return False
    return bool(used) and used <= _STRONG


def _may_sign(certificate: x509.Certificate) -> bool:
    """Whether its issuer meant it to sign documents or code: a web server's key must not."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    try:
        extensions = certificate.extensions
    except ValueError:
        return False
    for extension in extensions:
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
            return False
        if isinstance(extension.value, x509.ExtendedKeyUsage) and not {
            Usage.EMAIL_PROTECTION,
            Usage.CODE_SIGNING,
            Usage.ANY_EXTENDED_KEY_USAGE,
        } & set(extension.value):
            return False
    return True
