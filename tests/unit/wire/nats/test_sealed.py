# SPDX-License-Identifier: Apache-2.0
"""Does what a manager and a host seal open for them, for one purpose, and for nobody else?"""

from __future__ import annotations

import hashlib

from fastdl.wire.nats import sealed, subjects
from fastdl.wire.nats.sealed import OVERHEAD, Seal


def derive(purpose: str) -> bytes:
    """What managers know."""
    return hashlib.sha256(b"secret" + purpose.encode()).digest()


def test_only_the_key_and_the_purpose_open_it() -> None:
    """A document is for one host in one session, a result is of one host with one key."""
    seal = Seal(sealed.key_of(derive, "h1", "k1"))
    document = seal.close(sealed.document("h1", "s1"), "text")
    assert len(document) == len("text") + OVERHEAD
    assert seal.open(sealed.document("h1", "s1"), document) == "text"
    for purpose in (sealed.document("h1", "s2"), sealed.document("h2", "s1"), sealed.result("h1")):
        assert seal.open(purpose, document) is None
    for host, key_hash in (("h1", "k2"), ("h2", "k1")):
        other = Seal(sealed.key_of(derive, host, key_hash))
        assert other.open(sealed.document("h1", "s1"), document) is None
    for size in range(len(document)):
        assert seal.open(sealed.document("h1", "s1"), document[:size]) is None


def test_subjects_name_their_host() -> None:
    """What is not exactly such a subject names nobody."""
    session = "0123456789abcdef" * 2
    assert subjects.opened(subjects.opening("h1", session)) == ("h1", session)
    assert subjects.reporter(subjects.results("h1")) == "h1"
    for wrong in ("h.1", "*", ">", "", "h" * 65, "h 1"):
        assert subjects.opened(subjects.opening(wrong, session)) is None
        assert subjects.reporter(subjects.results(wrong)) is None
    assert subjects.opened(subjects.opening("h1", "s")) is None
    assert subjects.opened(subjects.up("h1", session)) is None


def test_permissions_are_of_one_host() -> None:
    """Each subject names it, as a whole token."""
    allowed = subjects.permissions("h1")
    for subject in (*allowed.publish, *allowed.subscribe):
        assert {"h1", "_INBOX_h1"} & set(subject.split("."))
