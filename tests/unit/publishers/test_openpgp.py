# SPDX-License-Identifier: Apache-2.0
"""Does a signature count only where a key that the admin gave made it, and is in force?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.errors import IntegrityError, UsageError
from fastdl.publishers.openpgp import (
    dearmored,
    read_keyring,
    signer_of,
    verify_clearsigned,
    verify_detached,
)
from tests.env.openpgp import Publisher, publisher

DATA = b"0123  i.img\n"


@pytest.fixture(scope="module")
def gpg() -> Iterator[Publisher]:
    with publisher() as made:
        yield made


def test_a_right_signature_names_its_key(gpg: Publisher) -> None:
    """By the primary key's fingerprint and its user id, from either kind of keyring."""
    for armored in (False, True):
        keys = dearmored(gpg.keyring("one", armored=armored))
        found = verify_detached(DATA, gpg.detached(DATA, "one", armored=armored), keys, "list")
        assert found.fingerprint == gpg.fingerprint("one")
        assert found.uid == "one <one@publisher.example>"
    two = dearmored(gpg.keyring("other", armored=True) + gpg.keyring("one", armored=True))
    assert verify_detached(DATA, gpg.detached(DATA, "one"), two, "list").uid.startswith("one")


def test_a_clearsigned_text_is_what_gpgv_gives_back(gpg: Publisher) -> None:
    """Dashes and trailing blanks are its business."""
    text = b"- dash\n" + DATA
    found, got = verify_clearsigned(gpg.clearsigned(text, "one"), gpg.keyring("one"), "list")
    assert (found.uid[:3], got) == ("one", text)
    forged = gpg.clearsigned(text, "one").replace(b"0123", b"4567")
    with pytest.raises(IntegrityError, match="the signature is wrong"):
        verify_clearsigned(forged, gpg.keyring("one"), "list")


def test_what_is_signed_otherwise_does_not_count(gpg: Publisher) -> None:
    """Other bytes, another key, no signature at all."""
    one = gpg.keyring("one")
    with pytest.raises(IntegrityError, match="is wrong"):
        verify_detached(DATA + b"x", gpg.detached(DATA, "one"), one, "list")
    with pytest.raises(IntegrityError, match="the keyring does not have"):
        verify_detached(DATA, gpg.detached(DATA, "other"), one, "list")
    for junk in (b"", b"junk", b"<html>404</html>", gpg.keyring("one")):
        with pytest.raises(IntegrityError, match="list: the signature"):
            verify_detached(DATA, junk, one, "list")


def test_one_known_signature_of_several_is_enough(gpg: Publisher) -> None:
    """Publishers sign with an old and a new key while they change."""
    both = gpg.detached(DATA, "other", "one")
    assert verify_detached(DATA, both, gpg.keyring("one"), "list").uid.startswith("one")


def test_weak_hashes_and_dead_keys_do_not_count(gpg: Publisher) -> None:
    """SHA-1 collisions are made; an expired or revoked key speaks for nobody."""
    weak = gpg.detached(DATA, "one", more=("--digest-algo", "SHA1"))
    with pytest.raises(IntegrityError):
        verify_detached(DATA, weak, gpg.keyring("one"), "list")
    gpg.make_key("late", expires="1d", faked_time="20200101T000000!")
    late = gpg.detached(DATA, "late", more=("--faked-system-time", "20200101T000010!"))
    with pytest.raises(IntegrityError, match="has expired"):
        verify_detached(DATA, late, gpg.keyring("late"), "list")
    gpg.make_key("gone")
    gone = gpg.detached(DATA, "gone")
    gpg.revoke("gone")
    with pytest.raises(IntegrityError, match="was revoked"):
        verify_detached(DATA, gone, gpg.keyring("gone"), "list")


def test_a_keyring_that_is_none_is_said_so(gpg: Publisher, tmp_path: Path) -> None:
    """Else every signature would seem to be of an unknown key."""
    damaged = gpg.keyring("one", armored=True).replace(b"\n\nm", b"\n\n!")
    for data in (b"", b"hello", damaged):
        with pytest.raises(UsageError):
            dearmored(data)
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
