# SPDX-License-Identifier: Apache-2.0
"""Is the keystore whole after a crash at any system call of an update? (K06, K11)"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.errors import SinkSpaceError
from fastdl.trust.keystore import Keystore, Passphrase
from tests.env.certs import CertLab

PASSPHRASE = "correct horse"
RENAME, UNLINK = "rename,renameat,renameat2", "unlink,unlinkat"
CALLS = ("openat", "write", "fsync", "fchmod", RENAME, UNLINK, "close", "flock")
PROGRAM = """
import os, sys
from fastdl.trust import certificate
from fastdl.trust.keystore import Keystore, Passphrase
text = open(sys.argv[2]).read()
keystore = Keystore(sys.argv[1], Passphrase(sys.argv[3]))
certificate.read_bundle(text)
keystore.items()
os.path.exists("/begin-of-the-update")  # a mark in the trace
keystore.import_certificate("mirror", text)
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace on this machine")
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_store(
    tmp_path: Path, certs: CertLab, call: str
) -> None:
    """Never something in between, never a lost mode, and the next update sweeps up."""
    path = tmp_path / "cloud.jks"
    pem = certs.leaf("self-signed").cert_file
    keystore = Keystore(path, Passphrase(PASSPHRASE))
    keystore.import_certificate("old", certs.ca.cert_file.read_text())
    path.chmod(0o640)
    old = path.read_bytes()
    survived = killed = 0
    first = _count(path, pem, call, tmp_path)
    for nth in range(first, first + 12):
        path.write_bytes(old)
        done = subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"),
                *("-e", f"inject={call}:signal=KILL:when={nth}"),
                *(sys.executable, "-c", PROGRAM, path, pem, PASSPHRASE),
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert path.stat().st_mode & 0o777 == 0o640
        aliases = {item.alias for item in keystore.items()}
        assert aliases in ({"old"}, {"old", "mirror"}), (nth, aliases)
        if done.returncode == 0:
            assert "mirror" in aliases
            survived += 1
            break
        killed += 1
    assert killed
    assert survived, f"more than twelve calls of {call} in one update"
    keystore.import_certificate("next", pem.read_text())
    assert {p.name for p in tmp_path.iterdir()} == {"cloud.jks", ".cloud.jks.lock", "count"}


def _count(path: Path, pem: Path, call: str, folder: Path) -> int:
    """The number of the first *call* that belongs to the update itself."""
    trace = folder / "count"
    subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", trace, "-e", f"trace={call},newfstatat,stat"),
            *(sys.executable, "-c", PROGRAM, path, pem, PASSPHRASE),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    before = trace.read_text().partition("/begin-of-the-update")[0]
    return sum(before.count(f" {name}(") for name in call.split(",")) + 1


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount on this machine")
def test_a_full_file_system_leaves_the_store_as_it_was(tmp_path: Path, certs: CertLab) -> None:
    """K11 on a real one of 64 KiB, not on a simulated error."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", tmp_path],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        keystore = Keystore(tmp_path / "cloud.jks", Passphrase(PASSPHRASE))
        keystore.import_certificate("old", certs.ca.cert_file.read_text())
        before = (tmp_path / "cloud.jks").read_bytes()
        with (
            (tmp_path / "ballast").open("wb", buffering=0) as ballast,
            contextlib.suppress(OSError),
        ):
            while ballast.write(b"x" * 4096):
                pass
        with pytest.raises(SinkSpaceError):
            keystore.import_certificate("new", certs.leaf("self-signed").cert_file.read_text())
        assert (tmp_path / "cloud.jks").read_bytes() == before
        (tmp_path / "ballast").unlink()
        assert keystore.import_certificate("new", certs.ca.cert_file.read_text())
        assert sorted(p.name for p in tmp_path.iterdir()) == [".cloud.jks.lock", "cloud.jks"]
    finally:
        subprocess.run(["umount", tmp_path], check=False)
