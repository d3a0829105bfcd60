# SPDX-License-Identifier: Apache-2.0
"""Who signed this? OpenPGP signatures, checked by gpgv or sqv against the administrator's keyring.

Both trust every key of the keyring and nothing else: no web of trust, no key server, no user
configuration. gpgv's reports are read from its status lines; sqv prints fingerprints.
"""

from __future__ import annotations

import binascii
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from fastdl.errors import UsageError
from fastdl.publishers.clearsigned import split_clearsigned
from fastdl.publishers.signer import MAX_SIGNATURE, Content, Signer, printable
from fastdl.publishers.verifier import STDIN, Outcome, run_verifier

MAX_KEYRING: Final = 8 << 20
ARMOR: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_ARMOR: Final = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)\n-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)
_STRONG_HASHES: Final = frozenset({"8", "9", "10", "11", "12", "14"})
"""SHA-2 and SHA-3, as OpenPGP numbers them (RFC 9580, 9.5)."""
_DOCUMENT_CLASSES: Final = frozenset({"00", "01"})
_FINGERPRINT: Final = re.compile(r"[0-9A-F]{40}(?:[0-9A-F]{24})?")
_WHY: Final = {
    "BADSIG": "is wrong",
    "EXPSIG": "has expired",
    "EXPKEYSIG": "is of a key that has expired",
    "REVKEYSIG": "is of a key that was revoked",
    "ERRSIG": "cannot be checked",
    "NO_PUBKEY": "is of a key that the keyring does not have",
}


def verify_detached(content: Content, signature: bytes, keyring: bytes) -> Signer:
    """The key of *keyring* that made *signature* of *content*. Errors as ``signer_of``.

    UsageError: there is neither gpgv nor sqv.
    """
    if len(signature) > MAX_SIGNATURE:
        raise content.refused("is too large")
    return _verified(content, keyring, {"signature": signature}, "signature", STDIN)[0]


def verify_clearsigned(data: bytes, keyring: bytes, what: str) -> tuple[Signer, bytes]:
    """The key of *keyring* that signed the clear-signed *data*, and the signed text.

    Like ``verify_detached``; only the text that was verified counts: gpgv returns it, and sqv is
    given it.
    """
    if shutil.which("gpgv") is None and shutil.which("sqv") is not None:
        text, signature = split_clearsigned(data)
        signer = verify_detached(Content(what, text), signature, keyring)
        return signer, text.replace(b"\r\n", b"\n") + b"\n"
    return _verified(Content(what, data), keyring, {}, "--output", "text", STDIN)


def dearmored(data: bytes) -> bytes:
    """The keys in *data* in gpgv's format; UsageError if there are none."""
    if not data or len(data) > MAX_KEYRING:
        raise UsageError(f"a keyring has 1 byte to {MAX_KEYRING >> 20} MiB")
    if is_binary(data):
        return data
    keys = []
    for block in _ARMOR.findall(data.replace(b"\r\n", b"\n")):
        _, _, body = (b"\n" + block).partition(b"\n\n")  # the end of the armor's fields
        lines = [line.strip() for line in body.splitlines()]
        text = b"".join(line for line in lines if not line.startswith(b"="))
        try:
            keys.append(binascii.a2b_base64(text, strict_mode=True))
        except binascii.Error:
            raise UsageError("the keyring's armor is damaged") from None
    if not keys:
        raise UsageError("the keyring holds no OpenPGP public keys")
    return b"".join(keys)


def is_binary(data: bytes) -> bool:
    """Whether *data* begins as OpenPGP packets or GnuPG's keybox do."""
    return bool(data[:1]) and (bool(data[0] & 0x80) or data[8:12] == b"KBXf")


def signer_of(status: str, what: str) -> Signer:
    """The maker of a valid signature of *what*, from the status lines of gpgv.

    One valid signature is enough, unless another one is bad. IntegrityError: there is none by a
    valid key of the keyring with a hash that is not weak.
    """
    good: Signer | None = None
    uid = ""
    reasons: list[str] = []
    for line in status.splitlines():
        words = line.split(" ")
        if len(words) < 2 or words[0] != "[GNUPG:]":
            continue
        keyword, rest = words[1], words[2:]
        if keyword == "NEWSIG":
            uid = ""
        elif keyword == "GOODSIG":
            uid = _uid(" ".join(rest[1:]))
        elif keyword == "VALIDSIG" and len(rest) >= 10:
            if not uid:  # reported for an expired or revoked key's signature too
                continue
            if rest[7] not in _STRONG_HASHES:
                reasons.append("is made with a weak hash")
            elif rest[8] in _DOCUMENT_CLASSES:
                good = good or Signer(rest[9], uid)
        elif keyword in _WHY:
            reasons.append(_WHY[keyword])
    if good is None or _WHY["BADSIG"] in reasons:
        why = _WHY["BADSIG"] if _WHY["BADSIG"] in reasons else (reasons or ["is missing"])[-1]
        raise Content(what).refused(why)
    return good


def signer_by_sqv(outcome: Outcome, what: str) -> Signer:
    """The maker of a valid signature of *what*, as sqv reports it; IntegrityError without one."""
    found = outcome.output.decode("utf-8", "replace").split()
    if outcome.code != 0 or not found or _FINGERPRINT.fullmatch(found[0]) is None:
        raise Content(what).refused("is not valid for a key of the keyring")
    return Signer(found[0], "")


def _uid(text: str) -> str:
    """A user id, which is chosen by the key's creator, made safe to display. Never empty."""
    raw = re.sub(r"%([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)
    return printable(raw) or "?"


def _verified(
    content: Content, keyring: bytes, files: dict[str, bytes], *arguments: str
) -> tuple[Signer, bytes]:
    """The signer, and the text if gpgv wrote one. *files*: more of them next to the keyring."""
    gpgv, sqv = shutil.which("gpgv"), shutil.which("sqv")
    if gpgv is None and sqv is None:
        raise UsageError(
            "OpenPGP signatures are checked by gpgv or sqv, and neither is installed (packages "
            "gpgv and sqv)"
        )
    with tempfile.TemporaryDirectory(prefix="fastdl-keys-") as name:
        folder = Path(name)
        for file, data in (("keys", keyring), *files.items()):
            (folder / file).write_bytes(data)
        if gpgv is None:
            assert sqv is not None
            outcome = run_verifier([sqv, "--keyring", "keys", *arguments], content, home=name)
            return signer_by_sqv(outcome, content.what), b""
        command = [gpgv, "--homedir", name, "--keyring", f"{name}/keys", "--status-fd", "1"]
        command += ["--weak-digest", "SHA1", "--weak-digest", "MD5", *arguments]
        outcome = run_verifier(command, content, home=name)
        signer = signer_of(outcome.output.decode("utf-8", "replace"), content.what)
        text = folder / "text"
        return signer, text.read_bytes() if text.exists() else b""
