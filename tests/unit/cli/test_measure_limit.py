# SPDX-License-Identifier: Apache-2.0
"""Does the limit follow from the figures, and is no secret in what is shown?"""

from __future__ import annotations

import pytest

from fastdl.cli.measure.limit import find_limit
from fastdl.cli.measure.rates import Rates
from fastdl.cli.measure.runs import without_secrets
from fastdl.cli.measure.tools import TOOLS, Task, reason_against

MB = 1e6
FAST = Rates(800 * MB, 900 * MB, 2000 * MB, 1800 * MB, None)


@pytest.mark.parametrize(
    ("rates", "whole", "limit"),
    [
        (FAST._replace(one_connection=100 * MB), 850 * MB, "mirror-per-connection"),
        (FAST, 850 * MB, "mirror-or-link"),
        (FAST._replace(one_connection=None), 850 * MB, "mirror-or-link"),
        (FAST._replace(interface=1000 * MB), 850 * MB, "link"),
        (FAST._replace(interface=10_000 * MB), 850 * MB, "mirror-or-link"),
        (FAST._replace(storage=300 * MB), 290 * MB, "storage"),
        (FAST._replace(digest=400 * MB), 390 * MB, "digest"),
        (FAST._replace(storage=None), 850 * MB, "mirror-or-link"),
    ],
)
def test_the_slowest_part_is_the_limit(rates: Rates, whole: float, limit: str) -> None:
    assert find_limit(rates, whole, seconds=10).what == limit


def test_a_whole_below_all_parts_is_explained() -> None:
    """Parts that share the processors are slower together than each alone."""
    found = find_limit(FAST, 300 * MB, seconds=10)
    assert found.what == "processors"
    assert "share the processors" in found.why[0]
    assert len(find_limit(FAST, 600 * MB, seconds=10).why) == 2


def test_no_limit_lies_below_what_was_reached() -> None:
    """A part that was measured while other work ran cannot have been what the whole waited for."""
    slow = FAST._replace(digest=166 * MB)
    assert find_limit(slow, 850 * MB, seconds=10).what == "mirror-or-link"
    assert find_limit(Rates(1.0, 2.0, 3.0, 4.0, None), 5.0, seconds=10).what == "unclear"


def test_a_short_download_says_nothing_of_the_limit() -> None:
    assert find_limit(FAST, 10 * MB, seconds=0.1).what == "start"


SECRET = Task(("https://user:word@a.example/i?sig=token",), "/t/image", 1, device=False)


def test_no_secret_is_on_a_command_line() -> None:
    """Other users can read it there: such tools are left out, the others read it from stdin."""
    for tool in TOOLS:
        if tool.shows_url:
            assert "secret" in (reason_against(tool._replace(needs=()), SECRET) or "")
        else:
            call = tool.call(SECRET)
            assert not any("token" in word or "word" in word for word in call.argv)
            assert "token" in call.stdin


def test_no_secret_is_in_a_failure() -> None:
    """Tools print URLs as they like."""
    said = "x\nfailed: https://user:word@a.example/i?sig=token and sig=token"
    shown = without_secrets(said, SECRET)
    assert "token" not in shown
    assert "word" not in shown
