# SPDX-License-Identifier: Apache-2.0
"""Do Java's own tools and the keystore editor read and change each other's files? (K03-K05)"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from fastdl.trust.keystore import Keystore, Known, Passphrase
from tests.env.certs import CertLab

PASSPHRASE = "changeit"
KEYTOOLS = sorted(
    {p.resolve() for p in Path("/usr/lib/jvm").glob("*/bin/keytool")}
    | {Path(found).resolve() for found in [shutil.which("keytool")] if found}
)
pytestmark = pytest.mark.skipif(not KEYTOOLS, reason="no keytool (a JDK) on this machine")

KINDS = {
    "JKS": ("-storetype", "JKS"),
    "PKCS12": ("-storetype", "PKCS12"),
    "PKCS12-legacy": ("-storetype", "PKCS12", "-J-Dkeystore.pkcs12.legacy"),
    "PKCS12-open-certificates": (
        *("-storetype", "PKCS12"),
        "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE",
    ),
}


class Store:
    """One keystore file under both tools."""

    def __init__(self, path: Path, keytool: Path, kind: str) -> None:
        self.path = path
        self.keytool = keytool
        self.options = KINDS[kind]
        self.ours = Keystore(path, Passphrase(PASSPHRASE))

    def java(self, *words: str | Path) -> str:
        """Run keytool on the store; its output."""
        done = subprocess.run(
            [self.keytool, *words, "-keystore", self.path, "-storepass", PASSPHRASE, *self.options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def java_list(self) -> dict[str, str]:
        """Alias → kind, as Java sees it."""
        rows = [line.split(", ") for line in self.java("-list").splitlines()]
        return {row[0]: row[-2] for row in rows if len(row) > 2}


@pytest.fixture(params=[(str(tool), kind) for tool in KEYTOOLS for kind in KINDS], ids=str)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A host's keystore as keytool makes it: two private keys in it (K04)."""
    tool, kind = request.param
    found = Store(tmp_path / "cloud.jks", Path(tool), kind)
    for alias in ("cloud", "second"):
        found.java(
            *("-genkeypair", "-alias", alias, "-dname", f"CN={alias}"),
            *("-keyalg", "EC", "-groupname", "secp256r1", "-validity", "30"),
        )
    return found


def test_each_tool_sees_and_keeps_what_the_other_wrote(store: Store, certs: CertLab) -> None:
    """K04: both directions, with both private keys still usable at the end."""
    mirror, other = certs.leaf("self-signed").cert_file, certs.ca.cert_file
    store.java("-importcert", "-noprompt", "-alias", "Theirs", "-file", other)
    keys = {i.alias: i.certificate for i in store.ours.items() if i.kind == "key"}
    assert set(keys) == {"cloud", "second"}
    store.ours.import_certificate("Mirror.1", mirror.read_text())
    assert store.java_list() == {
        "cloud": "PrivateKeyEntry",
        "second": "PrivateKeyEntry",
        "theirs": "trustedCertEntry",
        "mirror.1": "trustedCertEntry",
    }
    assert mirror.read_text().strip() in store.java(
        "-exportcert", "-rfc", "-alias", "mirror.1"
    ).replace("\r", "")
    store.java("-importcert", "-noprompt", "-alias", "after", "-file", other)
    store.java("-delete", "-alias", "theirs")
    assert store.ours.delete("mirror.1")
    assert store.java_list() == {
        "cloud": "PrivateKeyEntry",
        "second": "PrivateKeyEntry",
        "after": "trustedCertEntry",
    }
    for alias in ("cloud", "second"):
        assert "CERTIFICATE REQUEST" in store.java("-certreq", "-alias", alias)
    assert {i.alias: i.certificate for i in store.ours.items() if i.kind == "key"} == keys


def test_what_keytool_changed_since_is_never_answered_from_memory(
    store: Store, certs: CertLab
) -> None:
    """K09: a running agent remembers its keystore; keytool may rewrite it between two jobs."""
    mirror, other = certs.leaf("self-signed").cert_file, certs.ca.cert_file
    store.ours.import_certificate("mirror", mirror.read_text())
    agents = Keystore(store.path, Passphrase(PASSPHRASE), known=Known())
    for _ in range(2):
        assert len(agents.anchors()) == 1
    store.java("-importcert", "-noprompt", "-alias", "theirs", "-file", other)
    assert len(agents.anchors()) == 2
    store.java("-delete", "-alias", "mirror")
    assert agents.anchors() == (other.read_text(),)
    store.ours.delete("theirs")
    assert agents.anchors() == ()


def test_the_format_found_is_kept_whatever_the_name(store: Store, certs: CertLab) -> None:
    """K03: Java of any age must still open what it made."""
    before = store.path.read_bytes()[:2]
    store.ours.import_certificate("mirror", certs.ca.cert_file.read_text())
    assert store.path.read_bytes()[:2] == before


@pytest.mark.parametrize("keytool", KEYTOOLS[:1])
def test_java_opens_a_store_that_we_created(keytool: Path, tmp_path: Path, certs: CertLab) -> None:
    """A host without a keystore gets one that its agent's Java can use."""
    store = Store(tmp_path / "cloud.jks", keytool, "PKCS12")
    store.ours.import_certificate("mirror", certs.leaf("with-intermediate").chain.read_text())
    assert store.java_list() == {"mirror": "trustedCertEntry", "mirror#2": "trustedCertEntry"}
    store.java("-genkeypair", "-alias", "cloud", "-dname", "CN=cloud", "-keyalg", "EC")
    assert {i.alias.lower() for i in store.ours.items()} == {"cloud", "mirror", "mirror#2"}


@pytest.mark.parametrize("keytool", KEYTOOLS[:1])
@pytest.mark.parametrize("kind", ["JKS", "PKCS12"])
def test_a_running_keytool_corrupts_nothing_and_our_writers_converge(
    keytool: Path, kind: str, tmp_path: Path, certs: CertLab
) -> None:
    """K05: keytool takes no lock; whatever it overwrites, the file stays whole, and doing it again,
    as the reconciliation does, brings every change back beside keytool's own."""
    store = Store(tmp_path / "cloud.jks", keytool, kind)
    store.java("-genkeypair", "-alias", "cloud", "-dname", "CN=cloud", "-keyalg", "EC")
    pem = certs.leaf("self-signed").cert_file.read_text()

    def foreign() -> None:
        for n in range(3):
            alias = ("-alias", f"java{n}")
            store.java("-importcert", "-noprompt", *alias, "-file", certs.ca.cert_file)

    last = 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(foreign)
        # Often enough to meet each of keytool's rewrites, not so often that it starves.
        while not wait([running], timeout=0.05).done:
            last += 1
            store.ours.import_certificate(f"m{last}", pem)
            store.ours.delete(f"m{last - 3}")
        running.result()
    kept = {f"m{n}" for n in range(max(1, last - 2), last + 1)}
    for n in range(1, last + 1):
        if (alias := f"m{n}") in kept:
            store.ours.import_certificate(alias, pem)
        else:
            store.ours.delete(alias)
    expected = kept | {"cloud", "java0", "java1", "java2"}
    assert {i.alias for i in store.ours.items()} == expected
    assert set(store.java_list()) == expected


def _ca_stores() -> Iterator[Path]:
    yield from sorted({p.resolve() for p in Path("/usr/lib/jvm").glob("*/lib/security/cacerts")})


@pytest.mark.parametrize("source", list(_ca_stores()), ids=str)
def test_the_jdks_own_trust_store_survives_an_edit(
    source: Path, tmp_path: Path, certs: CertLab
) -> None:
    """The largest real store at hand: every entry Java lists before is listed after."""
    path = tmp_path / "cacerts"
    path.write_bytes(source.read_bytes())
    store = Store(path, KEYTOOLS[0], "JKS" if path.read_bytes()[:1] == b"\xfe" else "PKCS12")
    before = store.java_list()
    assert before
    store.ours.import_certificate("zz-mirror", certs.ca.cert_file.read_text())
    assert store.java_list() == before | {"zz-mirror": "trustedCertEntry"}
    assert len(store.ours.anchors()) == len(before) + 1


def test_the_command_line_works_on_a_real_store(tmp_path: Path, certs: CertLab) -> None:
    """``fastdl keystore`` end to end, the passphrase in a file."""
    store = Store(tmp_path / "cloud.jks", KEYTOOLS[0], "PKCS12")
    store.java("-genkeypair", "-alias", "cloud", "-dname", "CN=cloud", "-keyalg", "EC")
    pass_file = tmp_path / "pass"
    pass_file.write_text(PASSPHRASE + "\n")
    program = (
        "import argparse, sys\n"
        "from fastdl.cli import keystore\n"
        "parser = argparse.ArgumentParser()\n"
        "keystore.add_parser(parser.add_subparsers())\n"
        "raise SystemExit(keystore.run(parser.parse_args(sys.argv[1:])))\n"
    )

    def fastdl(action: str, *words: str | Path) -> str:
        common = ["--keystore", store.path, "--pass-file", pass_file, "--json"]
        done = subprocess.run(
            [sys.executable, "-c", program, "keystore", action, *common, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert PASSPHRASE not in done.stdout + done.stderr
        return done.stdout

    cert = certs.leaf("self-signed").cert_file
    assert json.loads(fastdl("import", "--alias", "mirror", "--cert", cert))["changed"]
    rows = json.loads(fastdl("list"))
    assert [(row["alias"], row["kind"]) for row in rows] == [
        ("cloud", "key"),
        ("mirror", "trusted"),
    ]
    assert json.loads(fastdl("delete", "--alias", "mirror")) == {"alias": "mirror", "changed": True}
    assert set(store.java_list()) == {"cloud"}
