# SPDX-License-Identifier: Apache-2.0
"""Does a line of a process that may have been taken over become a message, or nothing?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent import child_messages
from fastdl.engine.options import Progress
from fastdl.engine.result import MirrorReport, Probe, Result

RESULT = Result(
    target="t",
    source_bytes=1,
    target_bytes=2,
    fetched_bytes=3,
    resumed_bytes=0,
    digests={"sha-256": "00"},
    integrity="strong",
    consistency="digest",
    format="raw",
    seconds=0.5,
    stages={"fetch": 0.1},
    bottleneck="network",
    mirrors=(MirrorReport("http://a/", 1, 1, 0, "ok", None),),
    warnings=("w",),
).to_dict()
PROBE = Probe(
    url="http://a/",
    size=1,
    ranges=True,
    validators={"etag": '"x"'},
    format="raw",
    virtual_size=1,
    digests={},
    pieces={"algorithm": "sha-256", "length": 1, "count": 1},
    mirrors=({"url": "http://a/", "priority": 1, "state": "ok"},),
    metalink=False,
).to_dict()
RUNNING = Progress(
    done=5, bottleneck="write", mirror_reports=(MirrorReport("http://a/", 5, 1, 0, "ok"),)
).to_dict()
DOCUMENTS = {"documents": ["eJwDAAAAAAE=", ""], "public_source": False}


def _line(message: Any) -> bytes:
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"result": RESULT}, child_messages.Found(RESULT)),
        ({"probe": PROBE}, child_messages.Found(PROBE)),
        ({"documents": DOCUMENTS}, child_messages.Found(DOCUMENTS)),
        ({"progress": Progress().to_dict()}, child_messages.Progressed(Progress().to_dict())),
        ({"progress": RUNNING}, child_messages.Progressed(RUNNING)),
        (
            {"vouched": {"by": None, "subject": "CN=x", "not_after": "2030"}},
            child_messages.Found({"by": None, "subject": "CN=x", "not_after": "2030"}),
        ),
        (
            {"listed": {"length": 1 << 20, "hashes": "YWJj", "refused": False}},
            child_messages.Listed(1 << 20, "YWJj", refused=False),
        ),
        ({"begun": None}, child_messages.Begun(None)),
        ({"begun": 7}, child_messages.Begun(7)),
        (
            {"confined": {"missing": ["Landlock"], "listener": None}},
            child_messages.Confined(("Landlock",), None),
        ),
        (
            {"inspected": {"format": "qcow2", "virtual_size": 1}},
            child_messages.Inspected("qcow2", 1),
        ),
        (
            {"convert": {"source": "a", "target": "b", "format": "vmdk"}},
            child_messages.Convert("a", "b", "vmdk"),
        ),
    ],
)
def test_what_the_engine_reports_is_understood(plain: Any, message: child_messages.Message) -> None:
    """A field that the engine gains has to be added here as well."""
    assert child_messages.parse(_line(plain)) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"result":{}}',
        b'{"begun":-1}',
        b'{"begun":true}',
        b'{"begun":9223372036854775808}',
        b'{"begun":1e3}',
        b'{"begun":NaN}',
        b'{"begun":1,"result":{}}',
        b'{"unheard":1}',
        b'{"listed":{"length":1,"hashes":"a b","refused":true}}',
        b'{"listed":{"length":-1,"hashes":"","refused":true}}',
        b'{"listed":{"length":1,"hashes":"","refused":1}}',
        b'{"listed":{"length":1,"hashes":"' + b"A" * 400_000 + b'","refused":true}}',
        b'{"inspected":{"format":"raw","virtual_size":"1"}}',
        b"[" * 100_000,
        b'{"begun":' + b"9" * 5000 + b"}",
        b'{"confined":{"missing":"Landlock","listener":1}}',
        b'{"begun":' + b" " * child_messages.LINE_MAX + b"1}",
        b"\xff\xfe",
    ],
)
def test_everything_else_is_no_message(line: bytes) -> None:
    """The privileged process neither believes nor dies."""
    with pytest.raises(ValueError, match=r"."):
        child_messages.parse(line)


@pytest.mark.parametrize("change", [{"target_bytes": "1"}, {"mirrors": [1]}, {"more": 1}])
def test_a_result_of_other_types_is_no_result(change: dict[str, Any]) -> None:
    """The agent writes it into markers and sends it to its manager."""
    with pytest.raises(ValueError, match=r"not|unexpected fields"):
        child_messages.parse(_line({"result": RESULT | change}))


def test_texts_are_cut_and_freed_of_control_characters() -> None:
    """They end in logs and in the manager's database."""
    long = "w\n\x1b[31m\udc80" + "x" * 5_000
    found = child_messages.parse(_line({"result": RESULT | {"warnings": [long] * 300}}))
    assert isinstance(found, child_messages.Found)
    assert len(found.result["warnings"]) == 256
    assert found.result["warnings"][0].startswith("w??[31m?xxx")
    assert len(found.result["warnings"][0]) == 4096


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(line: bytes) -> None:
    """There is no third way."""
    try:
        child_messages.parse(line)
    except ValueError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(RESULT)), JSON)
def test_any_value_in_a_field_keeps_the_types_or_is_refused(name: str, value: Any) -> None:
    """What comes out can be used without another look."""
    try:
        found = child_messages.parse(json.dumps({"result": RESULT | {name: value}}).encode())
    except ValueError:
        return
    assert isinstance(found, child_messages.Found)
    assert type(found.result["target_bytes"]) is int
    assert all(isinstance(text, str) for text in found.result["warnings"])
