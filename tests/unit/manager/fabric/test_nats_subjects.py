# SPDX-License-Identifier: Apache-2.0
"""Are messages over NATS those of a manager, and under names that keep what belongs together?"""

from __future__ import annotations

import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.manager.fabric.nats_subjects import MESSAGE_MAX, Envelopes, Subjects


def derive(purpose: str) -> bytes:
    """One installation's secret."""
    return hmac.digest(b"k", purpose.encode(), "sha256")


def others(purpose: str) -> bytes:
    """Another's."""
    return hmac.digest(b"x", purpose.encode(), "sha256")


MESSAGES = st.lists(st.text(), min_size=1, max_size=4).map(tuple)


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_messages_survive_the_way(message: tuple[str, ...]) -> None:
    """Whatever the words are."""
    sealed = Envelopes(derive, "a").seal(message, ("x",))
    assert Envelopes(derive, "b").open(sealed) == ("a", [message, ("x",)])


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_nothing_else_is_a_message(data: bytes) -> None:
    """Whoever may publish there cannot say anything."""
    assert Envelopes(derive, "a").open(data) is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"1", b"{}", b'["a", 1]', b'["a", []]', b'[["a"]]', b'["a", [1]]', b"\xff"]
)
def test_signed_nonsense_is_no_message(text: bytes) -> None:
    """Of a newer manager, say."""
    signed = hmac.digest(derive("fabric: messages"), text, "sha256") + text
    assert Envelopes(derive, "a").open(signed) is None


def test_another_installation_and_another_name_do_not_mix() -> None:
    """Two installations may use the same servers."""
    one, two = Subjects(derive), Subjects(others)
    assert not {one.stream, one.kept, one.passing, one.beat} & {
        two.stream,
        two.kept,
        two.passing,
        two.beat,
    }
    assert Envelopes(others, "a").open(Envelopes(derive, "a").seal(("x",))) is None
    long = Envelopes(derive, "a").seal(("x" * MESSAGE_MAX,))
    assert Envelopes(derive, "a").open(long) is None


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_every_subject_is_one_that_the_server_accepts(message: tuple[str, ...]) -> None:
    """Words are hashed if they could be anything else than one token."""
    found = Subjects(derive).of(("post", *message))
    assert re.fullmatch(r"fdl\.[0-9a-f]{16}\.kept\.post\.[A-Za-z0-9_-]+", found)
    assert len(found) < 256


def test_a_host_has_one_place_for_its_latest_document() -> None:
    """Each kept message replaces the one that it makes pointless, and no other."""
    subjects = Subjects(derive)
    host = "0b2c7e1a-5a2f-4a8e-9e61-0d6f3b0c1d2e"
    assert subjects.of(("post", host)).endswith(f".kept.post.{host}")
    kept = [("post", host), ("post", "h2"), ("mark", host), ("evict", host, "a"), ("settings",)]
    assert len({subjects.of(message) for message in kept}) == len(kept)
