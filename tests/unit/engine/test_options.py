# SPDX-License-Identifier: Apache-2.0
"""Is a wrong option refused before anything is opened?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdl.engine.options import FetchOptions
from fastdl.errors import UsageError


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_connections": 0},
        {"max_connections": 65},
        {"max_connections_per_origin": 0},
        {"window": 1 << 20},
        {"block_size": 32 << 10},
        {"block_size": 32 << 20, "window": 1 << 30},
        {"block_size": 3 << 20},
        {"block_size": 16 << 20},
        {"retry": -1},
        {"connect_timeout": 0},
        {"stall_timeout": -1.0},
        {"limit_rate": 0},
        {"policy": "lax"},
        {"target_format": "qcow2"},
        {"key": "k.pem"},
        {"checksum": "sha-256:12"},
        {"no_such_option": 1},
        {"headers": [("Range", "bytes=0-1")]},
        {"headers": [("host", "other")], "policy": "strict"},
        {"headers": [("Host", "")]},
        {"headers": [("Host", "a b")]},
        {"headers": [("If-Range", '"v1"')]},
        {"headers": [("Accept-Encoding", "gzip")]},
        {"headers": [("Transfer-Encoding", "chunked")]},
        {"headers": [("X-A", "a\r\nX-B: b")]},
        {"headers": [("X A", "a")]},
        {"headers": [("", "a")]},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_a_usage_error(wrong: dict[str, Any]) -> None:
    """A mistyped option must not start a transfer that the operator did not want."""
    with pytest.raises(UsageError):
        FetchOptions.build(**wrong)


def test_sequences_and_paths_become_plain_values() -> None:
    """The options are hashable and the same however the caller spelled them."""
    made = FetchOptions.build(
        headers=[("X-A", "b")], allowed_cidrs=["10.0.0.0/8"], cacert=Path("/x/ca.pem")
    )
    assert made.headers == (("X-A", "b"),)
    assert made.allowed_cidrs == ("10.0.0.0/8",)
    assert made.cacert == "/x/ca.pem"
    assert hash(made) == hash(
        FetchOptions.build(
            headers=(("X-A", "b"),), allowed_cidrs=("10.0.0.0/8",), cacert="/x/ca.pem"
        )
    )


@pytest.mark.parametrize("name", ["Host", "User-Agent", "Accept", "Want-Repr-Digest", "X-Token"])
def test_a_header_of_the_caller_may_replace_ours(name: str) -> None:
    """What decides neither which bytes come nor where they end is the caller's."""
    made = FetchOptions.build(headers=[(name, "a.example")])
    assert made.headers == ((name, "a.example"),)
