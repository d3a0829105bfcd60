# SPDX-License-Identifier: Apache-2.0
"""Does only the one that is meant open what is encrypted as NATS does it?"""

from __future__ import annotations

import pytest

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.nats_claims import TOKEN_MAX, Kind, key_text
from tests.env.nats_asking import AskingServer

pytest.importorskip("nacl", reason="PyNaCl is not installed")
from fastdl.manager.hosts.nats_curve import Curve

SERVER = AskingServer(1)
OURS, OTHER = Curve(b"c" * 32), Curve(b"d" * 32)


def test_each_end_opens_what_the_other_closed() -> None:
    """A server's bytes by the manager, and the manager's by the server."""
    assert OURS.open(SERVER.sealed(b"asked", OURS.public), SERVER.curve) == b"asked"
    assert SERVER.opened(OURS.close(b"said", SERVER.curve), OURS.public) == b"said"


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"xkv1", b"xkv1" + bytes(23), b"xkv1" + bytes(60), b"eyJ"),
        SERVER.sealed(b"asked", OTHER.public),
        b"xkv2" + SERVER.sealed(b"asked", OURS.public)[4:],
        SERVER.sealed(b"asked", OURS.public)[:-1],
        SERVER.sealed(bytes(2 * TOKEN_MAX), OURS.public),
    ],
    # What is sealed is never the same.
    ids=lambda data: f"{len(data)} bytes of {data[:4].decode()}",
)
def test_what_is_not_for_this_manager_is_refused(data: bytes) -> None:
    """Whatever it is instead."""
    with pytest.raises(AgentRefusedError):
        OURS.open(data, SERVER.curve)


@pytest.mark.parametrize("sender", ["", SERVER.id, "X" * 56, key_text(Kind.CURVE, bytes(32))])
def test_a_sender_without_a_usable_key_is_refused(sender: str) -> None:
    """Among them the point with which everybody has the same secret."""
    with pytest.raises(AgentRefusedError):
        OURS.open(SERVER.sealed(b"asked", OURS.public), sender)
