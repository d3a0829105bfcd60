# SPDX-License-Identifier: Apache-2.0
"""Do signatures of minisign, ssh and CMS count where a key of the keyring made them?"""

from __future__ import annotations

import base64
import contextlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdl.errors import IntegrityError, PolicyError, UsageError
from fastdl.publishers import signer
from fastdl.publishers.signatures import Content, parse_keyring
from tests.env.signers import Signers, signers

DATA = b"0123  i.img\n" * 50
CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus" / "fuzz_signatures"
KINDS = ("minisign", "ssh", "x509")

Make = Callable[[str], Signers]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    known: dict[str, Signers] = {}

    def make(kind: str) -> Signers:
        if kind not in known:
            known[kind] = signers(kind, tmp_path_factory.mktemp(kind))
        return known[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_counts_for_its_bytes_and_its_key_alone(made: Make, kind: str) -> None:
    """Whatever kind of keys the keyring holds, and however many."""
    keys = made(kind)
    one, other = keys.sign(DATA, "one"), keys.sign(DATA, "other")
    ring = parse_keyring(keys.keyring("one"))
    assert ring.kind == kind
    found = ring.signer(Content("list", DATA), [other, one])
    both = parse_keyring(keys.keyring("other") + keys.keyring("one"))
    assert both.signer(Content("list", DATA), [one]) == found
    assert found.uid
    for data, signature in ((DATA + b"x", one), (DATA, other), (b"", one)):
        with pytest.raises(IntegrityError, match="list: the signature is"):
            ring.signer(Content("list", data), [signature])
    with pytest.raises(PolicyError, match="no signature"):
        ring.signer(Content("list", DATA), [])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_signatures_do_not_count(made: Make, kind: str) -> None:
    """Hostile bytes: one error, never another. A changed comment or blank may leave it valid."""
    keys = made(kind)
    right = keys.sign(DATA, "one")
    ring = parse_keyring(keys.keyring("one"))
    who = ring.verify(Content("list", DATA), right)
    chance = random.Random(kind)
    tries = [b"", b"\0", b"junk\n" * 5, right[:50], right + right, right * 9000]
    for _ in range(200 if kind != "x509" else 25):
        at, mutated = chance.randrange(len(right)), bytearray(right)
        mutated[at] = chance.randrange(256)
        tries.append(bytes(mutated))
        tries.append(right[:at])
    for bad in tries:
        with contextlib.suppress(IntegrityError):
            assert ring.verify(Content("list", DATA), bad) == who
        with pytest.raises(IntegrityError):
            ring.verify(Content("list", DATA + b"!"), bad)


def test_minisign_prehashed_and_legacy(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A legacy one needs all bytes at once, so it is for small files. Its comment is signed."""
    keys = made("minisign")
    ring = parse_keyring(keys.keyring("one"))
    legacy, hashed = keys.sign(DATA, "one", "-l"), keys.sign(DATA, "one", "-t", "version: 7")
    assert base64.b64decode(legacy.splitlines()[1])[:2] == b"Ed"
    assert base64.b64decode(hashed.splitlines()[1])[:2] == b"ED"
    shown = subprocess.run(
        ["minisign", "-R", "-s", "one.key", "-p", "again.pub"],
        cwd=keys.folder,
        capture_output=True,
        check=False,
    )
    assert shown.returncode in (0, 2)
    for signature in (legacy, hashed):
        found = ring.verify(Content("list", DATA), signature)
        assert found.fingerprint in keys.keyring("one").decode()
    with pytest.raises(IntegrityError, match="is wrong"):
        ring.verify(Content("list", DATA), hashed.replace(b"version: 7", b"version: 8"))
    bare = keys.keyring("one").splitlines()[1]
    assert parse_keyring(bare).verify(Content("list", DATA), legacy) == found
    monkeypatch.setattr(signer, "MAX_IN_MEMORY", 100)
    ring.verify(Content("list", DATA), hashed)
    with pytest.raises(IntegrityError, match="at once"):
        ring.verify(Content("list", DATA), legacy)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_ssh_keys_sign_files_and_nothing_else(tmp_path: Path, kind: str) -> None:
    """A signature for another purpose (a commit) must not pass for one of a file."""
    keys = signers("ssh", tmp_path / "keys", ssh_type=kind)
    public = keys.keyring("one").decode()
    ring = parse_keyring(public.encode())
    found = ring.verify(Content("list", DATA), keys.sign(DATA, "one"))
    assert found.uid == "one@publisher"
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", keys.folder / "one.pub"], capture_output=True, check=True
    ).stdout.decode()
    assert found.fingerprint in listed
    git = keys.sign(DATA, "one", "-n", "git")
    with pytest.raises(IntegrityError, match="is for 'git'"):
        ring.verify(Content("list", DATA), git)
    allowed = f'# team\nrelease@publisher namespaces="git,file" {public}'.encode()
    assert parse_keyring(allowed).verify(Content("list", DATA), git).uid == "release@publisher"
    plain = f"release@publisher {public}".encode()
    assert parse_keyring(plain).verify(Content("list", DATA), keys.sign(DATA, "one"))
    for options in (
        "cert-authority",
        'valid-before="20200101"',
        'namespaces="file",cert-authority',
    ):
        with pytest.raises(UsageError):
            parse_keyring(f"release@publisher {options} {public}".encode())


def _issued(folder: Path, name: str, usage: str) -> None:
    """A certificate *name* below the authority "one", for *usage*."""
    (folder / "ext").write_text(f"keyUsage=digitalSignature\nextendedKeyUsage={usage}\n")
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    below = "-CA one.pub -CAkey one.key -days 2 -extfile ext"
    for words in (
        f"req -new {curve} -keyout {name}.key -out {name}.csr -subj /CN={name}",
        f"x509 -req -in {name}.csr {below} -out {name}.pub",
    ):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)


def test_certificates_count_below_an_authority_if_they_are_for_signing(made: Make) -> None:
    """Else every web server of a company could sign its images."""
    keys = made("x509")
    ring = parse_keyring(keys.keyring("one"))
    _issued(keys.folder, "signing", "codeSigning")
    _issued(keys.folder, "web", "serverAuth")
    for form in ("PEM", "DER"):
        found = ring.verify(Content("x", DATA), keys.sign(DATA, "signing", "-outform", form))
        assert found.uid == "CN=signing"
    web = keys.sign(DATA, "web")
    with pytest.raises(IntegrityError, match="not issued for signing"):
        ring.verify(Content("x", DATA), web)
    assert parse_keyring(keys.keyring("web")).verify(Content("x", DATA), web).uid == "CN=web"


def test_cms_with_a_weak_hash_or_its_own_text_does_not_count(made: Make) -> None:
    """SHA-1 collisions are made; an embedded text is not the file."""
    keys = made("x509")
    ring = parse_keyring(keys.keyring("one"))
    for more in (("-md", "sha1"), ("-nodetach",)):
        with pytest.raises(IntegrityError, match="weak hash"):
            ring.verify(Content("x", DATA), keys.sign(DATA, "one", *more))
    for digest in ("sha384", "sha512"):
        assert ring.verify(Content("x", DATA), keys.sign(DATA, "one", "-md", digest))


def test_a_key_whose_point_is_compressed_is_refused_as_damaged() -> None:
    """The library does not read it, and says so in a way of its own."""
    ring = CORPUS / "ssh-compressed-point"
    with pytest.raises(UsageError, match="damaged or weak"):
        parse_keyring(ring.read_bytes())


def test_a_certificate_of_an_unknown_version_is_refused_as_unreadable() -> None:
    """The library's exception for that is no ValueError."""
    ring = CORPUS / "cert-unknown-version"
    with pytest.raises(UsageError, match="cannot be read"):
        parse_keyring(ring.read_bytes())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello", b"ssh-ed25519 AAAA", b"untrusted comment: x\nRWQf6\n", b"RW\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"x" * (9 << 20),
        b"ssh-dss AAAAB3NzaC1kc3M=", b"ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519"),
    ],
)  # fmt: skip
def test_what_is_no_keyring_is_said_so(data: bytes) -> None:
    """Else every signature would seem to be of an unknown key."""
    with pytest.raises(UsageError):
        parse_keyring(data)
