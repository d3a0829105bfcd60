# SPDX-License-Identifier: Apache-2.0
"""Which certificates does this host trust, and how is that changed?

``Keystore`` is what commands, the service and the inventory use; ``load_anchors`` is what
a download needs. Formats: jks.py, pkcs12.py. The file's safety: store.py.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.errors import (
    AliasConflictError,
    CertRejectedError,
    FastdlError,
    KeystoreAuthError,
    TrustError,
)
from fastdl.trust import certificate as certs
from fastdl.trust.alias import belongs_to, check_alias, fold, is_reserved, member, refuse_reserved
from fastdl.trust.certificate import Certificate
from fastdl.trust.keystore.entry import Document, Entry, Kind
from fastdl.trust.keystore.store import Passphrase, StoreFile, parse

__all__ = [
    "Certificate",
    "Entry",
    "Item",
    "Keystore",
    "Kind",
    "Known",
    "Passphrase",
    "check_alias",
    "is_reserved",
    "load_anchors",
    "read_passphrase",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One entry as it is listed: the inventory's row (``to_dict`` is its JSON)."""

    alias: str
    kind: Kind
    certificate: Certificate | None

    def to_dict(self) -> dict[str, Any]:
        """``alias, sha256, subject, issuer, not_before, not_after, kind``; null where unknown."""
        found = self.certificate
        return {
            "alias": self.alias,
            "sha256": found.sha256 if found else None,
            "subject": found.subject if found else None,
            "issuer": found.issuer if found else None,
            "not_before": found.not_before.isoformat() if found else None,
            "not_after": found.not_after.isoformat() if found else None,
            "kind": self.kind,
        }


class Known:
    """What the last file that was read held, so that the same bytes are not decrypted again.

    Deriving the keys is made slow on purpose, and a host reads its keystore for every job.
    The file itself is read each time and recognised by its bytes and its passphrase: times
    and inodes do not tell two quick rewrites apart. Kept are the entries as they are listed,
    which are public; no key, no passphrase and nothing of a file that could not be read.
    """

    def __init__(self) -> None:
        self._held: tuple[bytes, tuple[Item, ...]] | None = None

    def items(self, file: StoreFile) -> list[Item]:
        """As ``Keystore.items``; safe from several threads."""
        data = file.content()
        key = _fingerprint(data, file.passphrase)
        held = self._held
        if held is None or not hmac.compare_digest(held[0], key):
            held = self._held = (key, tuple(_items(parse(data, file.passphrase.text))))
        return list(held[1])


class Keystore:
    """A host's keystore: ``cloud.jks`` next to agent.properties, JKS or PKCS#12.

    *known*: what is remembered from one reading to the next; nothing without it.
    """

    def __init__(
        self, path: str | Path, passphrase: Passphrase, *, known: Known | None = None
    ) -> None:
        self._file = StoreFile(Path(path), passphrase)
        self._known = known

    def items(self) -> list[Item]:
        """Every entry, in the order of the file. KeystoreAuthError, KeystoreCorruptError."""
        return self._known.items(self._file) if self._known else _items(self._file.read())

    def anchors(self) -> tuple[str, ...]:
        """The certificates that vouch for origins, as PEM: the agent's own CA does not.

        KeystoreAuthError, KeystoreCorruptError.
        """
        return tuple(
            item.certificate.pem()
            for item in self.items()
            if item.kind == "trusted" and item.certificate and not is_reserved(item.alias)
        )

    def import_certificate(self, alias: str, text: str | bytes, *, replace: bool = False) -> bool:
        """Trust the certificates of *text* under *alias*; True when the file changed.

        The first keeps the alias, further ones of a bundle become ``alias#2``, ``alias#3``….
        The same certificates under the alias already: nothing to do. Others:
        AliasConflictError, unless *replace*. CertRejectedError for unusable certificates.
        """
        check_alias(alias)
        bundle = certs.read_bundle(text)
        # In small letters: Java looks for them in a JKS store, whatever was asked for.
        wanted = {fold(member(alias, n)): one.der for n, one in enumerate(bundle, 1)}

        def edit(document: Document) -> Document:
            held = _held(document, alias)
            if {e.key: e.certificate for e in held} == wanted:
                return document
            if held and not replace:
                raise AliasConflictError(
                    f"the alias {alias} holds another certificate; delete it first, or replace it"
                )
            for entry in held:
                document = document.without_trusted(entry.alias)
            for name, der in wanted.items():
                document = document.with_trusted(name, der, now_ms=int(time.time() * 1000))
            return document

        return self._file.update(edit)

    def delete(self, alias: str) -> bool:
        """Stop trusting what is under *alias*, its bundle included; False when it was not there.

        AliasConflictError for reserved aliases and for private keys.
        """
        refuse_reserved(alias)

        def edit(document: Document) -> Document:
            for entry in _held(document, alias):
                document = document.without_trusted(entry.alias)
            return document

        if not self._file.path.exists():
            return False
        return self._file.update(edit)

    def create(self) -> bool:
        """Make an empty PKCS#12 store where there is no file; True when one was made."""
        if self._file.path.exists():
            return False
        unchanged: Callable[[Document], Document] = lambda document: document  # noqa: E731
        return self._file.update(unchanged)


def load_anchors(path: str | Path, pass_file: str | Path) -> tuple[str, ...]:
    """The PEM of every certificate that the keystore at *path* trusts.

    TrustError when the store or its passphrase cannot be read: a download must not continue
    with less, or other, trust than its operator configured.
    """
    try:
        return Keystore(path, read_passphrase(pass_file)).anchors()
    except TrustError:
        raise
    except FastdlError as exc:
        raise TrustError(
            f"the keystore {path} cannot be used, so nothing is trusted: {exc}"
        ) from exc


def read_passphrase(path: str | Path) -> Passphrase:
    """The passphrase on the first line of the file at *path*; KeystoreAuthError without one."""
    try:
        with Path(path).open("rb") as file:
            line = file.read(4096).split(b"\n", 1)[0].removesuffix(b"\r").decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise KeystoreAuthError(
            f"the passphrase file {path} cannot be read: {fs.why(exc)}"
        ) from None
    if not line:
        raise KeystoreAuthError(f"the passphrase file {path} is empty")
    return Passphrase(line)


def _held(document: Document, alias: str) -> list[Entry]:
    """The trusted entries under *alias* and its bundle; AliasConflictError for a private key."""
    found = [e for e in document.entries() if belongs_to(e.alias, alias)]
    if any(e.kind == "key" for e in found):
        raise AliasConflictError(f"the alias {alias} holds a private key, which is never touched")
    return found


def _fingerprint(data: bytes, passphrase: Passphrase) -> bytes:
    """What tells one file and passphrase from every other; no tighter to guess than a JKS file."""
    found = hashlib.sha256(
        hashlib.sha256(passphrase.text.encode("utf-8", "surrogatepass")).digest()
    )
    found.update(data)
    return found.digest()


def _items(document: Document) -> list[Item]:
    return [Item(e.alias, e.kind, _tolerant(e)) for e in document.entries()]


def _tolerant(entry: Entry) -> Certificate | None:
    """The entry's certificate, None where only Java could make sense of it."""
    if entry.certificate is None:
        return None
    try:
        return certs.parse(entry.certificate)
    except CertRejectedError:
        return None
