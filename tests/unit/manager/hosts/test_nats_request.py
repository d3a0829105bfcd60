# SPDX-License-Identifier: Apache-2.0
"""Is a NATS server's request read with nothing taken on trust, and is the response one that it
takes, for that connection alone?"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError
from fastdl.manager.hosts.nats_claims import TOKEN_MAX, Issuer, Kind, key_bytes, key_text
from fastdl.manager.hosts.nats_request import Request, granted, read, refused
from fastdl.wire.nats import subjects
from tests.env.nats_asking import SERVER, AskingServer, checked, encoded, spelled

ISSUER = Issuer(b"i" * 32)
SERVER_1, SERVER_2 = AskingServer(1), AskingServer(2)
REQUEST = Request(
    user=SERVER_1.user, server=SERVER_1.id, curve="", certificate="PEM", address="192.0.2.1"
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_PATHS = [
    *(["aud"], ["iss"], ["sub"], ["nats"], ["nats", "server_id"], ["nats", "server_id", "id"]),
    *(["nats", "server_id", "xkey"], ["nats", "user_nkey"], ["nats", "client_info"]),
    *(["nats", "client_info", "host"], ["nats", "client_tls"]),
    ["nats", "client_tls", "verified_chains"],
]


def test_a_request_is_read() -> None:
    """Of what it says only the certificate, the keys and the address count: no name."""
    assert read(SERVER_1.signed(SERVER_1.claims(ISSUER.public, "PEM")), ISSUER.public) == REQUEST
    sealing = SERVER_1.signed(SERVER_1.claims(ISSUER.public, xkey=True))
    found = read(sealing, ISSUER.public)
    assert (found.curve, found.certificate) == (SERVER_1.curve, "")


def test_a_certificate_that_the_server_has_not_verified_is_none() -> None:
    """A server without ``verify`` passes on whatever it was shown."""
    claims = SERVER_1.claims(ISSUER.public, "PEM")
    claims["nats"]["client_tls"] = {"certs": ["PEM"], "verified_chains": []}
    assert not read(SERVER_1.signed(claims), ISSUER.public).certificate


def test_a_response_is_for_one_connection_and_gives_what_a_list_would() -> None:
    """The permissions have one home."""
    text = granted(REQUEST, ISSUER, "h1", now=1000.0, until=1500.9)
    user = checked(SERVER_1.response(text.encode(), ISSUER.public)["jwt"], ISSUER.public)
    assert (user["sub"], user["aud"], user["name"]) == (SERVER_1.user, "$G", "h1")
    assert user["exp"] == 1500
    allowed = subjects.permissions("h1")
    assert user["nats"]["pub"] == {"allow": list(allowed.publish)}
    assert user["nats"]["sub"] == {"allow": list(allowed.subscribe)}


def test_a_refusal_has_a_reason_and_no_user() -> None:
    """The reason is for the server's log."""
    text = refused(REQUEST, ISSUER, "why", now=1000.0)
    said = SERVER_1.response(text.encode(), ISSUER.public)
    assert said["error"] == "why"
    assert "jwt" not in said


def _changed(path: list[str], value: object) -> dict[str, Any]:
    claims = copy.deepcopy(SERVER_1.claims(ISSUER.public, "PEM"))
    inner = claims
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return claims


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (["aud"], "nats-authorization-response", "another purpose"),
        (["sub"], Issuer(b"j" * 32).public, "another secret.key"),
        (["iss"], SERVER_2.id, "not signed"),
        (["iss"], ISSUER.public, "not the key of a NATS server"),
        (["nats", "server_id", "id"], SERVER_2.id, "for another one"),
        (["nats", "user_nkey"], SERVER_1.id, "not the key of a NATS user"),
        (["nats", "user_nkey"], SERVER_1.user[:-1] + "A", "not the key of a NATS user"),
        (["nats", "server_id", "xkey"], SERVER_1.user, "not the key of a NATS curve"),
        (["nats"], [], "another form"),
        (["nats", "client_tls"], "x", "another form"),
    ],
)
def test_what_is_no_request_to_this_manager_is_refused(
    path: list[str], value: object, why: str
) -> None:
    """Whoever signed it."""
    with pytest.raises(AgentRefusedError, match=why):
        read(SERVER_1.signed(_changed(path, value)), ISSUER.public)


@pytest.mark.parametrize(
    "header", [{"typ": "JWT", "alg": "none"}, {"typ": "JWT", "alg": "HS256"}, {}, []]
)
def test_no_other_algorithm_is_accepted(header: object) -> None:
    """The token does not choose how it is checked."""
    with pytest.raises(AgentRefusedError):
        read(SERVER_1.signed(SERVER_1.claims(ISSUER.public), header), ISSUER.public)


def test_a_token_that_was_changed_or_is_too_large_is_refused() -> None:
    """Before it is parsed, if it is too large; deep JSON ends no process."""
    good = SERVER_1.signed(SERVER_1.claims(ISSUER.public, "PEM"))
    header, claims, signature = good.split(b".")
    other = encoded(json.dumps(SERVER_1.claims(ISSUER.public, "other")).encode()).encode()
    for bad in (
        b".".join((header, other, signature)),
        b".".join((header, claims)),
        b".".join((header, claims, signature[:-2])),
        b".".join((header, encoded(b"[" * 50_000).encode(), signature)),
        b".".join((header, encoded(b'{"exp":' + b"9" * 5000 + b"}").encode(), signature)),
        SERVER_1.signed({**SERVER_1.claims(ISSUER.public), "more": "x" * TOKEN_MAX}),
        *(b"", b"..", good + b"\n", good + b"="),
    ):
        with pytest.raises(AgentRefusedError):
            read(bad, ISSUER.public)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_bytes_are_no_request(data: bytes) -> None:
    """There is one kind of refusal."""
    with pytest.raises(AgentRefusedError):
        read(data, ISSUER.public)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_PATHS), _JSON)
def test_a_signed_request_with_anything_in_it_is_read_or_refused(
    path: list[str], value: object
) -> None:
    """A server's key costs nothing. What is read has only keys of the right kinds, and bounds."""
    try:
        found = read(SERVER_1.signed(_changed(path, value)), ISSUER.public)
    except AgentRefusedError:
        return
    assert key_bytes(Kind.USER, found.user)
    assert found.server == SERVER_1.id
    assert len(found.address) <= 64
    assert not found.curve or key_bytes(Kind.CURVE, found.curve)


@given(st.sampled_from(Kind), st.binary(min_size=32, max_size=32))
def test_a_key_is_written_and_read(kind: Kind, key: bytes) -> None:
    """As one kind only, in capitals only, and with every character as it was."""
    text = key_text(kind, key)
    assert text == spelled(kind.value, key)
    assert key_bytes(kind, text) == key
    wrong = "B" if text[20] == "A" else "A"
    others = [other for other in Kind if other is not kind]
    for where, bad in [
        *((other, text) for other in others),
        *((kind, bad) for bad in (text.lower(), text[:-1], text[:20] + wrong + text[21:], None)),
    ]:
        with pytest.raises(AgentRefusedError):
            key_bytes(where, bad)
    assert text[0] == {SERVER: "N"}.get(kind.value, text[0])
