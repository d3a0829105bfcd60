# SPDX-License-Identifier: Apache-2.0
"""Does a tunnel carry frames, however its bytes are cut, and nothing that somebody else wrote?"""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError
from fastdl.lab.certs import Authority
from fastdl.wire.nats.tunnel import FRAMES_MAX, Frame, Kind, Tunnel

NAME = "localhost"
LIMIT = 1 << 16
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """The server's and the client's."""
    authority = Authority(tmp_path_factory.mktemp("certs"))
    leaf = authority.make("server", issuer=authority.ca)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf.chain, leaf.key)
    return server, ssl.create_default_context(cafile=str(authority.ca.cert_file))


def pair(contexts: Contexts) -> tuple[Tunnel, Tunnel]:
    """Both ends, established."""
    server = Tunnel(contexts[0], name=None, limit=LIMIT)
    client = Tunnel(contexts[1], name=NAME, limit=LIMIT)
    for _ in range(4):
        server.feed(client.take())
        client.feed(server.take())
    assert server.established
    assert client.established
    return server, client


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    frames=st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40_000)), max_size=4),
    sizes=st.lists(st.integers(1, 20_000), min_size=1),
)
def test_frames_arrive_whole(
    contexts: Contexts, frames: list[tuple[Kind, bytes]], sizes: list[int]
) -> None:
    """In order, whatever pieces the bytes come in."""
    server, client = pair(contexts)
    for kind, content in frames:
        client.write(kind, content)
    data, found, at, turn = client.take(), list[Frame](), 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        found += server.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert found == [Frame(*frame) for frame in frames]


@pytest.mark.parametrize("change", ["lost", "twice", "flipped", "foreign"])
def test_what_others_do_to_the_bytes_ends_it(contexts: Contexts, change: str) -> None:
    """A message that is lost, repeated, changed or put in between never becomes a frame."""
    server, client = pair(contexts)
    client.write(Kind.TEXT, b"one")
    one = client.take()
    client.write(Kind.TEXT, b"two")
    two = client.take()
    sent = {
        "lost": [two],
        "twice": [one, one],
        "flipped": [one[:-1] + bytes([one[-1] ^ 1])],
        "foreign": [one, b"{}" * 20, two],
    }[change]
    found = list[Frame]()

    def feed() -> None:
        for data in sent:
            found.extend(server.feed(data))

    with pytest.raises(ssl.SSLError):
        feed()
    assert found in ([], [Frame(Kind.TEXT, b"one")])


def test_frames_that_are_none_are_refused(contexts: Contexts) -> None:
    """Too large, as soon as it says so; of no kind; and more than anybody has to say at once."""
    server, client = pair(contexts)
    client._tls.write(b"T" + (LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(AgentRefusedError, match="more than"):
        server.feed(client.take())
    server, client = pair(contexts)
    client._tls.write(b"?" + bytes(4))
    with pytest.raises(AgentRefusedError, match="unknown kind"):
        server.feed(client.take())
    server, client = pair(contexts)
    client._tls.write((b"P" + bytes(4)) * (FRAMES_MAX + 1))
    with pytest.raises(AgentRefusedError, match="at once"):
        server.feed(client.take())


def test_another_server_is_not_accepted(contexts: Contexts, tmp_path: Path) -> None:
    """Neither of another name nor of another authority."""
    other = ssl.create_default_context(cafile=str(Authority(tmp_path).ca.cert_file))
    for client in (
        Tunnel(contexts[1], name="another.example", limit=LIMIT),
        Tunnel(other, name=NAME, limit=LIMIT),
    ):
        server = Tunnel(contexts[0], name=None, limit=LIMIT)
        server.feed(client.take())
        with pytest.raises(ssl.SSLCertVerificationError):
            client.feed(server.take())
