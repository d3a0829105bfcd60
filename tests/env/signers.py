# SPDX-License-Identifier: Apache-2.0
"""How do publishers sign without OpenPGP? Real keys of minisign, ssh and X.509, by real tools."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


def _run(*words: str | Path, cwd: Path) -> None:
    subprocess.run(words, cwd=cwd, check=True, capture_output=True, timeout=60)


@dataclass(frozen=True, slots=True)
class Signers:
    """Keys "one" and "other" of *kind* in *folder*: ``minisign``, ``ssh`` or ``x509``."""

    kind: str
    folder: Path

    def keyring(self, name: str) -> bytes:
        """The public key *name* as its tool writes it."""
        return (self.folder / f"{name}.pub").read_bytes()

    def sign(self, data: bytes, name: str, *more: str) -> bytes:
        """A detached signature of *data* by the key *name*; *more*: arguments of the tool."""
        (self.folder / "data").write_bytes(data)
        made = self.folder / "data.sig"
        made.unlink(missing_ok=True)
        if self.kind == "minisign":
            _run("minisign", "-S", "-s", f"{name}.key", "-m", "data", "-x", made, *more,
                 cwd=self.folder)  # fmt: skip
        elif self.kind == "ssh":
            space = more or ("-n", "file")
            _run("ssh-keygen", "-Y", "sign", "-f", name, *space, "data", cwd=self.folder)
        else:
            form = ("-outform", "PEM") if "-outform" not in more else ()
            _run("openssl", "cms", "-sign", "-binary", "-in", "data", "-signer", f"{name}.pub",
                 "-inkey", f"{name}.key", "-out", made, *form, *more, cwd=self.folder)  # fmt: skip
        return made.read_bytes()


def signers(kind: str, folder: Path, *, ssh_type: str = "ed25519") -> Signers:
    """Keys of *kind* in *folder*; the test is skipped where the tool is missing."""
    tool = {"minisign": "minisign", "ssh": "ssh-keygen", "x509": "openssl"}[kind]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is needed")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("one", "other"):
        if kind == "minisign":
            _run("minisign", "-G", "-W", "-p", f"{name}.pub", "-s", f"{name}.key", cwd=folder)
        elif kind == "ssh":
            words = ("-q", "-N", "", "-C", f"{name}@publisher", "-f", name)
            _run("ssh-keygen", "-t", ssh_type, *words, cwd=folder)
        else:
            words = ("-keyout", f"{name}.key", "-out", f"{name}.pub", "-subj", f"/CN={name}")
            _run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-days", "2", *words, cwd=folder)  # fmt: skip
    return Signers(kind, folder)
