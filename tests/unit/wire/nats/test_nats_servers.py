# SPDX-License-Identifier: Apache-2.0
"""Is what --fabric says understood, and nothing secret shown?"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdl.errors import UsageError
from fastdl.manager.config import load
from fastdl.wire.nats.servers import servers_of

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "addresses", "user", "password"),
    [
        ("nats://one", ("one:4222",), None, None),
        ("nats://one:1,two:2", ("one:1", "two:2"), None, None),
        ("nats://[::1]:5,10.0.0.1", ("[::1]:5", "10.0.0.1:4222"), None, None),
        (f"nats://u:{SECRET}@one", ("one:4222",), "u", SECRET),
        ("nats://u:a%40b%3A@one,two", ("one:4222", "two:4222"), "u", "a@b:"),
        (f"nats://{SECRET}@one", ("one:4222",), SECRET, None),
    ],
)
def test_urls(url: str, addresses: tuple[str, ...], user: str | None, password: str | None) -> None:
    """Several servers, and an account: a password or a token."""
    found = servers_of(url)
    assert (found.addresses, found.user, found.password) == (addresses, user, password)
    assert found.tls is None
    assert SECRET not in f"{found} {found!r}"


def test_tls_needs_no_more_than_the_scheme() -> None:
    """The system's CAs, unless others are named."""
    found = servers_of("tls://one")
    assert found.tls is not None
    assert found.tls.check_hostname
    assert str(found) == "tls://one:4222"


@pytest.mark.parametrize(
    "url",
    [
        "", "nats", "nats://", "http://one", f"nats://u:{SECRET}@", f"nats://:{SECRET}@one",
        "nats://one:0x1", "nats://one:65536", "nats://one:-1", "nats://one,", "nats://,one",
        f"nats://u:{SECRET}@one/path", "nats://one?x=1", "nats://one#x", "nats://[::1",
        "nats://a b", "nats://one\nPUB", "nats://" + ",".join(f"h{n}" for n in range(17)), "redis://one",
    ],
)  # fmt: skip
def test_what_is_no_such_url_is_refused(url: str) -> None:
    """With what is wanted, and without what was said: it may hold a password."""
    with pytest.raises(UsageError) as caught:
        servers_of(url)
    assert SECRET not in str(caught.value)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """Each with its option."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for option, values in {
        "--fabric-ca": {"ca": str(tmp_path / "none")},
        "--fabric-cert": {"cert": str(empty)},
        "--fabric-key": {"key": str(empty)},
    }.items():
        with pytest.raises(UsageError, match=option):
            servers_of("nats://one", **values)
    with pytest.raises(UsageError, match="--fabric-ca"):
        servers_of("nats://one", ca=str(empty))


POSTGRESQL = "postgresql://u@h/d"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fabric": "nats://one"}, "--database postgresql"),
        ({"fabric": "nats://one", "database": "sqlite:////x"}, "--database postgresql"),
        ({"fabric": "rabbit", "database": POSTGRESQL}, "--fabric is local"),
        ({"fabric_ca": "x", "database": POSTGRESQL}, "need --fabric"),
        ({"agent_nats": "rabbit"}, "--agent-nats is where NATS is"),
        ({"agent_nats": "tls://one:0"}, "--agent-nats is where NATS is"),
    ],
)
def test_what_does_not_belong_together_is_refused(values: dict[str, str], words: str) -> None:
    """NATS is for several managers, and its options are for NATS."""
    with pytest.raises(UsageError, match=words):
        load({"state": "/s", **values}, {}, None)


def test_the_environment_may_hold_the_url() -> None:
    """A password belongs there or into the file, not on the command line."""
    found = load(
        {"state": "/s", "database": POSTGRESQL},
        {"FASTDL_MANAGER_FABRIC": f"nats://u:{SECRET}@one"},
        None,
    )
    assert found.fabric.endswith("@one")
