# SPDX-License-Identifier: Apache-2.0
"""Is a request for a volume what was sent, or one sentence about what is wrong with it?"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiParamError
from fastdl.wire.volumes import BODY_MAX, VolumeRequest, parse_volume_request

PLAIN = {"pool": "p", "name": "n", "source": "https://a.example/x"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["pool", "name", "source", "sources", "checksum", "format", "capacity", "headers", "cacert"]
)


def _parsed(plain: Any) -> VolumeRequest:
    return parse_volume_request(json.dumps(plain).encode())


def test_a_request_is_read() -> None:
    """With what is optional, and in any order of fields."""
    found = _parsed(
        {
            **PLAIN,
            "checksum": "https://a.example/SHA256SUMS",
            "format": "raw",
            "capacity": 1 << 30,
            "overwrite": True,
            "headers": {"X": "y", "A": "b"},
        }
    )
    assert (found.pool, found.name, found.sources) == ("p", "n", ("https://a.example/x",))
    assert (found.checksum, found.checksum_list) == (None, "https://a.example/SHA256SUMS")
    assert (found.raw, found.capacity, found.overwrite) == (True, 1 << 30, True)
    assert found.headers == (("A", "b"), ("X", "y"))
    assert _parsed(PLAIN).id == _parsed(dict(reversed(PLAIN.items()))).id
    assert _parsed({**PLAIN, "format": "same"}).raw is False


@pytest.mark.parametrize("change", [{"name": "m"}, {"capacity": 1}, {"source": "http://a/x"}])
def test_another_request_is_another_job(change: dict[str, Any]) -> None:
    """The id is that of the whole request."""
    assert _parsed({**PLAIN, **change}).id != _parsed(PLAIN).id


def test_secrets_are_not_shown() -> None:
    """Sources and headers may hold some."""
    shown = repr(_parsed({**PLAIN, "source": "http://u:pw@a/x?sig=s3", "headers": {"X": "s3"}}))
    assert "s3" not in shown
    assert "pw" not in shown


def test_a_large_body_is_not_parsed() -> None:
    """Whatever it says."""
    with pytest.raises(ApiParamError, match="at most"):
        parse_volume_request(json.dumps(PLAIN).encode() + b" " * BODY_MAX)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(ApiParamError):
        parse_volume_request(data)


@given(st.dictionaries(FIELDS, VALUES))
def test_any_fields_are_refused_or_read(plain: dict[str, Any]) -> None:
    """Nothing else is raised; what is read has the right types."""
    with contextlib.suppress(ApiParamError):
        found = _parsed({**PLAIN, **plain})
        assert isinstance(found.name, str)
        assert all(isinstance(source, str) for source in found.sources)
