# SPDX-License-Identifier: Apache-2.0
"""Can a process that was taken over have a tenant read what it likes?"""

from __future__ import annotations

from typing import Any

import pytest

from fastdl.agent.child_errors import error_of
from fastdl.errors import BY_CODE, BY_THE_SOURCE, FormatError, NetError, SinkSpaceError
from fastdl.manager.downloads.disclosure import HIDDEN, reason
from fastdl.wire import codec

STOLEN = "root:$6$hash\x1b from /etc/shadow, or what a host inside answered"


def _said(code: int, message: str = STOLEN, **fields: Any) -> dict[str, Any]:
    return {**FormatError(message).to_dict(), "code": code, "origin": STOLEN, **fields}


@pytest.mark.parametrize("code", [*BY_CODE, 99, 255])
@pytest.mark.parametrize("claimed", [True, False])
def test_its_words_reach_no_tenant(code: int, claimed: bool) -> None:
    """Unless the broker saw public addresses alone, whatever class it says and claims."""
    error = error_of(_said(code, public_source=claimed), public=False)
    assert not error.public_source
    told = reason(codec.failure_of(error), admin=False)
    assert "shadow" not in told
    if code in BY_THE_SOURCE:
        assert told == HIDDEN
    assert "shadow" not in reason(codec.failure_of(error), admin=True) or code in BY_THE_SOURCE


def test_what_is_known_of_an_error_stays() -> None:
    """The class, the system's reason, the status, where: what an operator acts on."""
    found = error_of(
        _said(30, "writing 4096 bytes failed: No space left on device", offset=7), public=True
    )
    assert isinstance(found, SinkSpaceError)
    assert found.message.endswith(": No space left on device")
    assert found.offset == 7
    found = error_of(_said(10, "refused", public_source=True, http_status=503), public=True)
    assert isinstance(found, NetError)
    assert (found.message, found.public_source, found.http_status) == ("refused", True, 503)


def test_what_it_says_is_short_and_said_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """A megabyte would fill logs and rows; a line of its own must not look like another's."""
    assert len(error_of(_said(23, "x" * 4000), public=False).message) == 1000
    error_of(_said(74, "first\nfake line\x1b[2J" + "x" * 4000), public=False)
    lines = capfd.readouterr().err.splitlines()
    assert [line[:44] for line in lines] == ["a confined download says: first fake line [2"]
    assert len(lines[0]) < 1100
