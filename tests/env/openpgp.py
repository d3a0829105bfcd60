# SPDX-License-Identifier: Apache-2.0
"""How does a publisher sign? One with real keys, made by GnuPG in a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Publisher:
    """Keys by user id, and what is signed with them."""

    home: Path

    def make_key(self, uid: str, *, expires: str = "1d", faked_time: str | None = None) -> None:
        """A signing key of *uid*."""
        when = ["--faked-system-time", faked_time] if faked_time else []
        self._gpg(*when, "--passphrase", "", "--quick-gen-key", uid, "ed25519", "sign", expires)

    def keyring(self, *uids: str, armored: bool = False) -> bytes:
        """The public keys of *uids*."""
        return self._gpg(*(["--armor"] if armored else []), "--export", *uids)

    def fingerprint(self, uid: str) -> str:
        """Of the primary key."""
        lines = self._gpg("--with-colons", "--list-keys", uid).decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))

    def detached(
        self, data: bytes, *uids: str, armored: bool = False, more: tuple[str, ...] = ()
    ) -> bytes:
        """A signature of *data* by each of *uids*."""
        armor = ["--armor"] if armored else []
        return self._gpg(*more, *armor, *self._by(uids), "--detach-sign", data=data)

    def clearsigned(self, data: bytes, *uids: str) -> bytes:
        """*data* with its signature around it."""
        return self._gpg(*self._by(uids), "--clearsign", data=data)

    def revoke(self, uid: str) -> None:
        """Revoke the key of *uid* with the certificate that was made beside it."""
        file = self.home / "openpgp-revocs.d" / f"{self.fingerprint(uid)}.rev"
        self._gpg("--import", data=file.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))

    @staticmethod
    def _by(uids: tuple[str, ...]) -> list[str]:
        return [word for uid in uids for word in ("--local-user", uid)]

    def _gpg(self, *words: str, data: bytes = b"") -> bytes:
        return subprocess.run(
            ["gpg", "--batch", "--quiet", "--no-tty", "--yes", *words],
            input=data,
            capture_output=True,
            check=True,
            timeout=60,
            env=os.environ | {"GNUPGHOME": str(self.home), "LC_ALL": "C"},
        ).stdout


@contextlib.contextmanager
def publisher() -> Iterator[Publisher]:
    """A publisher with the keys "one" and "other"; the test is skipped where GnuPG is missing."""
    if shutil.which("gpg") is None or shutil.which("gpgv") is None:
        pytest.skip("gpg and gpgv are needed")
    # The agent's socket has to fit 108 characters: no folder of pytest's.
    with tempfile.TemporaryDirectory(prefix="fastdl-gpg-") as name:
        made = Publisher(Path(name))
        try:
            made.make_key("one <one@publisher.example>")
            made.make_key("other <other@publisher.example>")
            yield made
        finally:
            subprocess.run(["gpgconf", "--homedir", name, "--kill", "all"], check=False, timeout=30)
