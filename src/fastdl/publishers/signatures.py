# SPDX-License-Identifier: Apache-2.0
"""Is a signature by one of the administrator's keys, whatever kind they are?

A keyring is a file of OpenPGP keys, minisign keys, ssh keys or X.509 certificates: its content
says which. Its kind decides which signatures count; a document's own signature never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from fastdl.errors import IntegrityError, PolicyError, UsageError
from fastdl.publishers import cms, minisign, openpgp, sshsig
from fastdl.publishers.clearsigned import is_clearsigned, signed_text
from fastdl.publishers.signer import MAX_SIGNATURE, Content, Signer

__all__ = ["MAX_SIGNATURE", "Content", "Keyring", "Signer", "read_keyring"]

OPENPGP, MINISIGN, SSH, X509 = "openpgp", "minisign", "ssh", "x509"
SUFFIXES: Final = {
    OPENPGP: (".gpg", ".asc", ".sign", ".sig"),
    MINISIGN: (".minisig",),
    SSH: (".sig",),
    X509: (".p7s", ".cms", ".sig"),
}
"""What a detached signature's name adds to the name of what it signs."""


class Keyring(NamedTuple):
    """The keys of one *kind*; *verify* finds the one that made a signature, or raises
    IntegrityError."""

    kind: str
    verify: Callable[[Content, bytes], Signer]
    verify_clearsigned: Callable[[bytes, str], tuple[Signer, bytes]] | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The names of signatures that these keys may have made."""
        return SUFFIXES[self.kind]

    def signed_text(
        self, data: bytes, signatures: Iterable[bytes], what: str
    ) -> tuple[Signer, bytes]:
        """Who signed the list *data*, called *what*, and its text.

        *signatures*: the detached ones next to it, used only if these keys do not clear-sign.

        ChecksumListError: there is text outside the signed part. PolicyError: no signature.
        IntegrityError: none that is valid.
        """
        if not is_clearsigned(data):
            return self.signer(Content(what, data), signatures), data
        text = signed_text(data)
        if self.verify_clearsigned is not None:
            return self.verify_clearsigned(data, what)
        return self.signer(Content(what, data), signatures), text

    def signer(self, content: Content, signatures: Iterable[bytes]) -> Signer:
        """The maker of the first of *signatures* that is valid; errors as ``signed_text``."""
        wrong: IntegrityError | None = None
        for signature in signatures:
            try:
                return self.verify(content, signature)
            except IntegrityError as exc:
                wrong = wrong or exc
        raise wrong or PolicyError(
            f"{content.what} has no signature next to it, and a keyring is given", phase="resolve"
        )


def read_keyring(path: str) -> Keyring:
    """The keyring in the file *path*; UsageError if it is not one."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(openpgp.MAX_KEYRING + 1)
    except OSError as exc:
        raise UsageError(f"the keyring {path} cannot be read: {exc.strerror}") from None
    return parse_keyring(data)


def parse_keyring(data: bytes) -> Keyring:
    """The keys in *data*, a keyring file; UsageError if it is not one."""
    if openpgp.is_binary(data) or openpgp.ARMOR in data or len(data) > openpgp.MAX_KEYRING:
        keys = openpgp.dearmored(data)
        return Keyring(
            OPENPGP,
            lambda content, signature: openpgp.verify_detached(content, signature, keys),
            lambda text, what: openpgp.verify_clearsigned(text, keys, what),
        )
    if cms.MARK in data:
        trusted = cms.read_certificates(data)
        return Keyring(X509, lambda content, signature: cms.verify(content, signature, trusted))
    if any(kind.encode() in data for kind in sshsig.KEY_TYPES):
        allowed = sshsig.read_keys(data)
        return Keyring(SSH, lambda content, signature: sshsig.verify(content, signature, allowed))
    if data.lstrip().startswith((minisign.COMMENT, b"RW")):
        known = minisign.read_keys(data)
        return Keyring(
            MINISIGN, lambda content, signature: minisign.verify(content, signature, known)
        )
    raise UsageError(
        "the keyring holds no public keys of OpenPGP, minisign or ssh, and no PEM certificates"
    )
