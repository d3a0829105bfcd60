# SPDX-License-Identifier: Apache-2.0
"""Are messages carried unchanged, and are hostile ones refused with one class of error?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdl.errors import AgentRefusedError, FastdlError, IntegrityError, NetError, UsageError
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.token import new_token, parse_token
from fastdl.wire.version import CURRENT, OLDEST, negotiate

LIMIT = 8 << 20


def _values(hint: Any, limit: Any = None) -> st.SearchStrategy[Any]:
    """A strategy for one annotation of the messages."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, first, *_ = get_args(hint)
        return _values(inner, first)
    if origin is tuple:
        parts = get_args(hint)
        if parts[-1] is Ellipsis:
            return st.lists(_values(parts[0]), max_size=min(limit.most, 2)).map(tuple)
        return st.tuples(*map(_values, parts))
    if origin is not None and origin.__name__ == "Mapping":
        key, value = get_args(hint)
        return st.dictionaries(_values(key), _values(value), max_size=2)
    if type(None) in get_args(hint):
        return st.none() | st.one_of(*(_values(a) for a in get_args(hint) if a is not type(None)))
    if hint is str:
        chars = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
        return st.text(chars, min_size=limit.least, max_size=min(limit.most, limit.least + 8))
    if hint is int:
        return st.integers(limit.least, limit.most)
    if hint is float:
        return st.floats(0, 1e12)
    if hint is bool:
        return st.booleans()
    if isinstance(hint, type) and issubclass(hint, str):
        return st.sampled_from(list(hint))  # type: ignore[call-overload]
    return _instances(hint)


def _instances(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    if cls is m.Command:
        return st.sampled_from(sorted(codec._ARGS)).flatmap(
            lambda kind: st.builds(
                m.Command,
                job=_values(m.Id),
                kind=st.just(str(kind)),
                fence=_values(m.Count),
                args=_instances(codec._ARGS[kind]),
            )
        )
    if cls is m.JobResult:
        return st.sampled_from(sorted(codec._DONE)).flatmap(
            lambda kind: st.builds(
                m.JobResult,
                job=_values(m.Id),
                kind=st.just(str(kind)),
                fence=_values(m.Count),
                done=_instances(codec._DONE[kind]),
            )
        )
    return st.builds(cls, **{f.name: _values(hints[f.name]) for f in dataclasses.fields(cls)})


@pytest.mark.parametrize("cls", get_args(m.Message), ids=lambda cls: cls.__name__)
def test_every_message_survives_the_wire(cls: type) -> None:
    """What one side says is exactly what the other side hears."""

    @settings(max_examples=20, deadline=None)
    @given(_instances(cls))
    def check(message: m.Message) -> None:
        assert codec.decode(codec.encode(message), limit=LIMIT) == message

    check()


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.sampled_from([cls.__name__ for cls in get_args(m.Message)]),
)
def test_arbitrary_json_is_decoded_or_refused_with_one_class(body: Any, name: str) -> None:
    """Hostile input raises AgentRefusedError and nothing else."""
    plain = {**(body if isinstance(body, dict) else {"job": body, "host_id": body}), "type": name}
    with contextlib.suppress(AgentRefusedError):
        codec.decode(json.dumps(plain), limit=LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        "",
        "[]",
        "null",
        "{}",
        '{"type": 7}',
        '{"type":"Beat","clock":NaN}',
        '{"type":"Beat","clock":1e400}',
        '{"type":"Beat","active":true}',
        '{"type":"Beat","active":-1}',
        '{"type":"Beat","active":1.0}',
        '{"type":"Beat","active":1,"active":2}',
        '{"type":"Beat","active":' + "9" * 5000 + "}",
        '{"type":"JobStarted","job":"j"}',
        '{"type":"JobStarted","job":"","fence":1}',
        '{"type":"JobStarted","job":"a\\u0000b","fence":1}',
        '{"type":"JobStarted","job":"\\ud800","fence":1}',
        '{"type":"JobStarted","job":"' + "x" * 65 + '","fence":1}',
        '{"type":"JobResult","job":"j","fence":1,"kind":"download"}',
        '{"type":"JobResult","job":"j","fence":1,"kind":"dance","done":{}}',
        '{"type":"Document","rev":1,"commands":[{"job":"j","kind":"probe","fence":1}]}',
        '{"type":"x","deep":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
    ids=lambda data: str(data)[:40],
)
def test_malformed_messages_are_refused(data: str | bytes) -> None:
    """Each is a message that a broken or hostile peer could send."""
    with pytest.raises(AgentRefusedError):
        codec.decode(data, limit=LIMIT)


def test_size_limit_counts_bytes_not_characters() -> None:
    """A limit in characters would let four times as many bytes through."""
    text = codec.encode(m.Goodbye(reason="ok"))
    assert codec.decode(text, limit=len(text)) is not None
    with pytest.raises(AgentRefusedError, match="more than"):
        codec.decode(text, limit=len(text) - 1)
    with pytest.raises(AgentRefusedError, match="more than"):
        codec.decode('{"type":"Goodbye","reason":"éé"}', limit=33)


def test_element_limits_are_enforced() -> None:
    """A document of a million commands must not be built."""
    command = {"job": "j", "kind": "later", "fence": 1, "args": {}}
    plain = {"type": "Document", "rev": 1, "commands": [command] * 257}
    with pytest.raises(AgentRefusedError, match=r"Document\.commands: more than 256"):
        codec.decode(json.dumps(plain), limit=LIMIT)


def test_unknown_fields_types_and_kinds_do_not_break_an_old_side() -> None:
    """A newer peer adds things; an older one must go on working (G06)."""
    assert codec.decode('{"type":"FromTheFuture","x":1}', limit=LIMIT) is None
    assert codec.decode('{"type":"Beat","x":[1]}', limit=LIMIT) == m.Beat()
    document = codec.decode(
        '{"type":"Document","rev":3,"commands":[{"job":"j","kind":"dance","fence":1,"args":{"a":1}}]}',
        limit=LIMIT,
    )
    assert isinstance(document, m.Document)
    assert document.commands[0].args == m.UnknownArgs()


def test_errors_cross_the_wire_with_their_class() -> None:
    """The manager decides about retries from the class that the agent raised."""
    original = NetError("mirror.example did not answer", origin="mirror.example", phase="fetch")
    error = codec.error_of(codec.failure_of(original))
    assert type(error) is NetError
    assert (error.retryable, error.retry_elsewhere) == (True, True)
    assert error.to_dict() == original.to_dict()
    assert not codec.failure_of(IntegrityError("wrong digest")).elsewhere
    assert codec.failure_of(KeyError("x")).code == 74
    assert isinstance(codec.error_of(m.Failure(code=199, message="?")), FastdlError)


def test_secrets_do_not_appear_in_repr() -> None:
    """Messages are logged; request headers and tokens must not be."""
    transfer = m.Transfer(sources=("https://m/x",), headers=(("Authorization", "canary"),))
    assert "canary" not in repr(transfer)
    assert "canary" not in repr(m.EnrolRequest(token="canary", csr="canary", name="h"))


def test_versions_meet_in_the_middle_or_refuse() -> None:
    """Both sides must come to the same version, or say which one is too old."""
    assert negotiate(OLDEST, CURRENT + 5) == CURRENT
    assert negotiate(OLDEST, OLDEST) == OLDEST
    for oldest, newest in ((CURRENT + 1, CURRENT + 2), (0, OLDEST - 1), (2, 1)):
        with pytest.raises(AgentRefusedError, match="upgrade the older"):
            negotiate(oldest, newest)


def test_tokens_round_trip_and_never_show_their_secret() -> None:
    """The agent reads from the token what the manager put in."""
    token = new_token("ab" * 32)
    assert parse_token(f" {token}\n") == token
    assert token.secret not in repr(token)
    with pytest.raises(UsageError) as caught:
        parse_token(str(token)[:-1])
    assert token.secret not in str(caught.value)
