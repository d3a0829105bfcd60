# SPDX-License-Identifier: Apache-2.0
"""Does a document survive the wire, and can none burst whoever unpacks it?"""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError, LimitError
from fastdl.wire.packed import pack, unpack


@given(st.none() | st.binary(max_size=5000))
def test_a_document_is_what_it_was(data: bytes | None) -> None:
    """None is an absent one, which an empty one is not."""
    assert unpack(pack(data), most=5000) == data


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """A host that was taken over packs what it likes."""
    with pytest.raises(LimitError):
        unpack(pack(bytes(50_000_000)), most=1000)


@given(st.text(max_size=50) | st.binary(max_size=50).map(lambda b: base64.b64encode(b).decode()))
def test_anything_else_is_refused_with_one_class(text: str) -> None:
    """Nothing but a packed document is one."""
    try:
        data = unpack(text, most=1000)
    except (AgentRefusedError, LimitError):
        return
    assert not text or data == zlib.decompress(base64.b64decode(text))


def test_nothing_may_lie_behind_a_document() -> None:
    """Two readers would see two documents."""
    packed = base64.b64encode(zlib.compress(b"a") + b"b").decode()
    with pytest.raises(AgentRefusedError):
        unpack(packed, most=10)
