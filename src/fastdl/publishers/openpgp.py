# SPDX-License-Identifier: Apache-2.0
"""Who signed this? OpenPGP signatures, checked by gpgv against a keyring from the administrator.

gpgv trusts every key of its keyring and nothing else: no web of trust, no key server, no user
configuration. Its reports are read from its status lines.
"""

from __future__ import annotations

import binascii
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from fastdl.errors import IntegrityError, UsageError

MAX_KEYRING: Final = 8 << 20
MAX_SIGNATURE: Final = 256 << 10
_SECONDS: Final = 60
_ARMOR: Final = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t\r]*\n(.*?)\n-----END PGP PUBLIC KEY BLOCK-----",
    re.DOTALL,
)
_STRONG_HASHES: Final = frozenset({"8", "9", "10", "11", "12", "14"})
"""SHA-2 and SHA-3, as OpenPGP numbers them (RFC 9580, 9.5)."""
_DOCUMENT_CLASSES: Final = frozenset({"00", "01"})
_WHY: Final = {
    "BADSIG": "is wrong",
    "EXPSIG": "has expired",
    "EXPKEYSIG": "is of a key that has expired",
    "REVKEYSIG": "is of a key that was revoked",
    "ERRSIG": "cannot be checked",
    "NO_PUBKEY": "is of a key that the keyring does not have",
}


class Signer(NamedTuple):
    """The maker of a valid signature: the primary key's *fingerprint*, its *uid*."""

    fingerprint: str
    uid: str

    def __str__(self) -> str:
        return f"{self.uid} ({self.fingerprint})" if self.uid else self.fingerprint


def verify_detached(data: bytes, signature: bytes, keyring: bytes, what: str) -> Signer:
    """The key of *keyring* that made *signature* of *data*, called *what*. Errors as ``signer_of``.

    UsageError: there is no gpgv, or the keyring is not valid.
    """
    return _gpgv(keyring, what, data=data, signature=signature)[0]


def verify_clearsigned(data: bytes, keyring: bytes, what: str) -> tuple[Signer, bytes]:
    """The key of *keyring* that signed the clear-signed *data*, and the signed text.

    Like ``verify_detached``; only the text that gpgv itself returns counts.
    """
    return _gpgv(keyring, what, data=data, signature=None)


def read_keyring(path: str) -> bytes:
    """The keyring in the file *path*, binary or armored; UsageError if it is not one."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(MAX_KEYRING + 1)
    except OSError as exc:
        raise UsageError(f"the keyring {path} cannot be read: {exc.strerror}") from None
    return dearmored(data)


def dearmored(data: bytes) -> bytes:
    """The keys in *data* in gpgv's format; UsageError if there are none."""
    if not data or len(data) > MAX_KEYRING:
        raise UsageError(f"a keyring has 1 byte to {MAX_KEYRING >> 20} MiB")
    if data[0] & 0x80 or data[8:12] == b"KBXf":
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
        raise IntegrityError(f"{what}: the signature {why}", phase="resolve", retryable=False)
    return good


def _uid(text: str) -> str:
    """A user id, which is chosen by the key's creator, made safe to display. Never empty."""
    raw = re.sub(r"%([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)
    return "".join(c for c in raw if c.isprintable())[:200] or "?"


def _gpgv(
    keyring: bytes, what: str, *, data: bytes, signature: bytes | None
) -> tuple[Signer, bytes]:
    program = shutil.which("gpgv")
    if program is None:
        raise UsageError("signatures are checked by gpgv, which is not installed (package gpgv)")
    if signature is not None and len(signature) > MAX_SIGNATURE:
        raise IntegrityError(f"{what}: the signature is too large", phase="resolve")
    with tempfile.TemporaryDirectory(prefix="fastdl-gpgv-") as name:
        folder = Path(name)
        for file, content in (("keys", keyring), ("data", data), ("signature", signature)):
            if content is not None:
                (folder / file).write_bytes(content)
        command = [program, "--homedir", name, "--keyring", f"{name}/keys", "--status-fd", "1"]
        command += ["--weak-digest", "SHA1", "--weak-digest", "MD5"]
        if signature is None:
            command += ["--output", f"{name}/text", f"{name}/data"]
        else:
            command += [f"{name}/signature", f"{name}/data"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            raise IntegrityError(f"{what}: gpgv did not finish in time", phase="resolve") from None
        signer = signer_of(done.stdout.decode("utf-8", "replace"), what)
        text = folder / "text"
        return signer, text.read_bytes() if signature is None and text.exists() else b""
