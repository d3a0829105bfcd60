# SPDX-License-Identifier: Apache-2.0
"""Does a signature count only where a key that the admin gave made it, and is in force?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastdl.errors import ChecksumListError, IntegrityError, UsageError
from fastdl.publishers import openpgp
from fastdl.publishers.openpgp import dearmored, signer_of
from fastdl.publishers.signatures import Content, Keyring, Signer, parse_keyring, read_keyring
from tests.env.openpgp import Publisher, publisher

DATA = b"0123  i.img\n"


def verify_detached(data: bytes, signature: bytes, keys: bytes, what: str) -> Signer:
    return openpgp.verify_detached(Content(what, data), signature, keys)


def ring(keys: bytes) -> Keyring:
    return parse_keyring(keys)


@pytest.fixture(autouse=True, params=["gpgv", "sqv"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The only verifier that is installed."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is needed")
    hidden = {"gpgv", "sqv"} - {name}

    def which(program: str) -> str | None:
        return None if program in hidden else shutil.which(program)

    monkeypatch.setattr(openpgp, "shutil", SimpleNamespace(which=which))
    return name


@pytest.fixture(scope="module")
def gpg() -> Iterator[Publisher]:
    with publisher() as made:
        yield made


def test_a_right_signature_names_its_key(gpg: Publisher, tool: str) -> None:
    """By the primary key's fingerprint and its user id, from either kind of keyring."""
    for armored in (False, True):
        keys = dearmored(gpg.keyring("one", armored=armored))
        found = verify_detached(DATA, gpg.detached(DATA, "one", armored=armored), keys, "list")
        assert found.fingerprint == gpg.fingerprint("one")
        assert found.uid == ("one <one@publisher.example>" if tool == "gpgv" else "")
    two = dearmored(gpg.keyring("other", armored=True) + gpg.keyring("one", armored=True))
    found = verify_detached(DATA, gpg.detached(DATA, "one"), two, "list")
    assert found.fingerprint == gpg.fingerprint("one")


def test_a_clearsigned_text_is_what_was_verified(gpg: Publisher) -> None:
    """Dashes and trailing blanks are the verifier's business."""
    text = b"- dash\n\n" + DATA
    keys = gpg.keyring("one")
    found, got = openpgp.verify_clearsigned(gpg.clearsigned(text, "one"), keys, "list")
    assert (found.fingerprint, got) == (gpg.fingerprint("one"), text)
    forged = gpg.clearsigned(text, "one").replace(b"0123", b"4567")
    with pytest.raises(IntegrityError, match="the signature is"):
        openpgp.verify_clearsigned(forged, keys, "list")
    with pytest.raises(ChecksumListError, match="not signed"):
        ring(keys).signed_text(b"more\n" + gpg.clearsigned(text, "one"), (), "list")


def test_what_is_signed_otherwise_does_not_count(gpg: Publisher) -> None:
    """Other bytes, another key, no signature at all."""
    one = gpg.keyring("one")
    for data, who in ((DATA + b"x", "one"), (DATA, "other")):
        with pytest.raises(IntegrityError, match="list: the signature"):
            verify_detached(data, gpg.detached(DATA, who), one, "list")
    for junk in (b"", b"junk", b"<html>404</html>", gpg.keyring("one"), b"x" * (1 << 20)):
        with pytest.raises(IntegrityError, match="list: the signature"):
            verify_detached(DATA, junk, one, "list")


def test_a_large_file_goes_through_the_verifier(gpg: Publisher, tmp_path: Path) -> None:
    """By a pipe, and only as much of it as is the source's."""
    data = bytes(range(256)) * 40_000
    (tmp_path / "f").write_bytes(data + b"padding")
    keys = ring(gpg.keyring("one", armored=True))
    with open(tmp_path / "f", "rb") as file:
        content = Content("f", fd=file.fileno(), size=len(data))
        signer = keys.signer(content, [b"junk", gpg.detached(data, "one")])
        assert signer.fingerprint == gpg.fingerprint("one")
        longer = Content("f", fd=file.fileno(), size=len(data) + 100)
        with pytest.raises(IntegrityError):
            keys.signer(longer, [gpg.detached(data, "one")])


def test_one_known_signature_of_several_is_enough(gpg: Publisher) -> None:
    """Publishers sign with an old and a new key while they change."""
    both = gpg.detached(DATA, "other", "one")
    found = verify_detached(DATA, both, gpg.keyring("one"), "list")
    assert found.fingerprint == gpg.fingerprint("one")


def test_weak_hashes_and_dead_keys_do_not_count(gpg: Publisher, tool: str) -> None:
    """SHA-1 collisions are made; an expired or revoked key speaks for nobody."""
    weak = gpg.detached(DATA, "one", more=("--digest-algo", "SHA1"))
    with pytest.raises(IntegrityError):
        verify_detached(DATA, weak, gpg.keyring("one"), "list")
    late_key, gone_key = f"late {tool}", f"gone {tool}"
    gpg.make_key(late_key, expires="1d", faked_time="20200101T000000!")
    late = gpg.detached(DATA, late_key, more=("--faked-system-time", "20200101T000010!"))
    if tool == "sqv":  # it asks whether the key was valid when it signed, as apt does
        assert verify_detached(DATA, late, gpg.keyring(late_key), "list")
    else:
        with pytest.raises(IntegrityError, match="has expired"):
            verify_detached(DATA, late, gpg.keyring(late_key), "list")
    gpg.make_key(gone_key)
    gone = gpg.detached(DATA, gone_key)
    gpg.revoke(gone_key)
    with pytest.raises(IntegrityError, match="was revoked" if tool == "gpgv" else "not valid"):
        verify_detached(DATA, gone, gpg.keyring(gone_key), "list")


def test_a_keyring_that_is_none_is_said_so(gpg: Publisher, tmp_path: Path) -> None:
    """Else every signature would seem to be of an unknown key."""
    damaged = gpg.keyring("one", armored=True).replace(b"\n\nm", b"\n\n!")
    for data in (b"", b"hello", damaged):
        with pytest.raises(UsageError):
            parse_keyring(data)
    with pytest.raises(UsageError, match="No such file"):
        read_keyring(f"{tmp_path}/none")


def test_a_uid_is_fit_to_be_shown() -> None:
    """Whoever made the key wrote it, and gpgv escapes what it likes."""
    valid = f"[GNUPG:] VALIDSIG {'A' * 40} 2026-01-01 1 0 4 0 22 10 00 {'B' * 40}"
    status = f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG AB evil%0A\x1b[31m\n{valid}\n"
    assert signer_of(status, "x") == ("B" * 40, "evil[31m")
    with pytest.raises(IntegrityError):
        signer_of(status.replace("GOODSIG", "EXPKEYSIG"), "x")
    with pytest.raises(IntegrityError):
        signer_of(status + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG AB x\n", "x")
