# SPDX-License-Identifier: Apache-2.0
"""Does ``-v`` show every request of a transfer, what came of it, and nothing secret?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.env.command import Outcome
from tests.env.faults import Rule, When
from tests.env.here import Here, metalink, sha256
from tests.env.origin import FaultOrigin, Request, Resource, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(61, 9 * MIB + 12345)
SENT = re.compile(r"^> GET (\S+?)(?:, redirected to (\S+))?(?:, bytes (\d+-\d*))?(?:, .*)?$", re.M)
ANSWERED = re.compile(r"^< (\d{3}), bytes (\d+-\d+), connection (\d+)(?:, \d+ ms)?$", re.M)
SLOW = Rule(when=When(), rate=8 * MIB)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def get(here: Here, *words: str) -> Outcome:
    """``fastdl get -v`` of what has the digest of CONTENT."""
    return here.get("-v", *words, "--checksum", sha256(CONTENT), "-o", "x")


def ranges(requests: Sequence[Request]) -> Counter[str]:
    """How often each range was asked for."""
    return Counter(r.fields.get("range", "bytes=").removeprefix("bytes=") for r in requests)


def shown(ended: Outcome, url: str) -> Counter[str]:
    """How often each range of *url* was shown to be asked for."""
    return Counter(m[3] for m in SENT.finditer(ended.stderr) if m[1] == url)


def test_every_request_and_every_response(here: Here) -> None:
    """Of two mirrors, over several connections: what the servers saw, and nothing else."""
    slow = Resource.of(CONTENT, rules=[SLOW])
    with FaultOrigin({"/d.img": slow}) as one, FaultOrigin({"/d.img": slow}) as two:
        urls = [origin.url("/d.img") for origin in (one, two)]
        ended = get(here, *urls, "--max-connections=4")
        assert ended.code == 0, ended
        for origin, url in zip((one, two), urls, strict=True):
            seen = shown(ended, url)
            origin.wait_for(lambda o=origin, s=seen: ranges(o.requests) == s)  # type: ignore[misc]
    assert len(one.requests) > 1
    answered = list(ANSWERED.finditer(ended.stderr))
    asked = sum(len(origin.requests) for origin in (one, two))
    assert len(answered) >= asked - 4 - 1  # the first is shown otherwise; hedges may end earlier
    assert {m[1] for m in answered} == {"206"}
    assert {int(m[3]) for m in answered} <= {1, 2, 3, 4}
    assert "connection 1" in ended.stderr
    assert "(new)" in ended.stderr


def test_a_response_that_broke_off(here: Here) -> None:
    """Where, why, and that the rest was asked for."""
    cut = Rule(when=When(first_nth=2, last_nth=2), body_cut=300_000)
    with FaultOrigin({"/d.img": Resource.of(CONTENT, rules=[cut])}) as origin:
        url = origin.url("/d.img")
        ended = get(here, url, "--max-connections=1", "--retry=3")
        assert ended.code == 0, ended
        assert shown(ended, url) == ranges(origin.requests)
    assert re.search(rf"^! connection 1, {re.escape(url)}: NET: ", ended.stderr, re.M), ended


@pytest.mark.parametrize(
    ("rule", "status", "why"),
    [
        (Rule(when=When(first_nth=2), status=410), 410, "HTTP_STATUS: .*410"),
        (Rule(when=When(first_nth=2), total_delta=1), 206, "ORIGIN_CHANGED: "),
    ],
    ids=["refused", "changed"],
)
def test_a_response_that_is_no_use(here: Here, rule: Rule, status: int, why: str) -> None:
    """With its status and why it was left; so is a mirror that is left for good."""
    slow = Resource.of(CONTENT, rules=[SLOW])
    with (
        FaultOrigin({"/d.img": slow}) as good,
        FaultOrigin({"/d.img": Resource.of(CONTENT, rules=[rule])}) as bad,
    ):
        ended = get(here, bad.url("/d.img"), good.url("/d.img"))
        assert ended.code == 0, ended
        assert shown(ended, bad.url("/d.img")) == ranges(bad.requests)
    url = re.escape(bad.url("/d.img"))
    assert re.search(rf"^< {status}, .*connection \d", ended.stderr, re.M)
    assert re.search(rf"^! connection \d+, {url}: {why}", ended.stderr, re.M), ended
    if status == 206:
        assert re.search(rf"^! left {url}: ", ended.stderr, re.M), ended


def test_where_a_redirect_led_and_no_secret(here: Here) -> None:
    """Without its query: what a redirect adds may be a signature."""
    slow = Resource.of(CONTENT, rules=[SLOW])
    with (
        FaultOrigin({"/copy/d.img": slow}, name="localhost") as cdn,
        FaultOrigin() as front,
    ):
        to = cdn.url("/copy/d.img?sig=s3cret")
        away = Rule(when=When(), status=302, set={"Location": to})
        front.resources["/d.img"] = Resource.of(b"", rules=[away])
        user = front.url("/d.img?token=s3cret").replace("://", "://me:s3cret@")
        ended = get(here, user)
        assert ended.code == 0, ended
    found = [m for m in SENT.finditer(ended.stderr) if m[2]]
    assert {m[2] for m in found} == {cdn.url("/copy/d.img")}
    assert "s3cret" not in ended.stdout + ended.stderr


def test_a_server_without_ranges(here: Here) -> None:
    """There is no range to show."""
    whole = Rule(when=When(), ignore_range=True, remove=("Accept-Ranges",), rate=8 * MIB)
    cut = Rule(when=When(first_nth=1, last_nth=1), ignore_range=True, body_cut=2 * MIB)
    with FaultOrigin({"/d.img": Resource.of(CONTENT, rules=[cut, whole])}) as origin:
        ended = get(here, origin.url("/d.img"))
        assert ended.code == 0, ended
    assert re.search(r"^< 200, connection 1(, \d+ ms)?$", ended.stderr, re.M), ended


def test_of_several_files_each_line_says_of_which(here: Here) -> None:
    """A metalink's by their own names; their numbers of connections are not one another's."""
    with FaultOrigin({"/a.img": Resource.of(CONTENT), "/b.img": Resource.of(CONTENT)}) as origin:
        files = [(name, origin.url(f"/{name}"), CONTENT) for name in ("a.img", "b.img")]
        origin.resources["/both.meta4"] = metalink(*files)
        ended = here.get("-v", origin.url("/both.meta4"), "-d", ".")
        assert ended.code == 0, ended
    for name, url, _ in files:
        lines = [line for line in ended.stderr.splitlines() if line.startswith(f"{name}: ")]
        assert any(line.startswith(f"{name}: > GET {url}, bytes ") for line in lines), ended
        assert any(line.startswith(f"{name}: < 206, bytes ") for line in lines), ended


def test_without_v_nothing_of_it_is_said(here: Here) -> None:
    """Neither on stdout nor on stderr."""
    with FaultOrigin({"/d.img": Resource.of(CONTENT)}) as origin:
        ended = here.get(origin.url("/d.img"), "--checksum", sha256(CONTENT))
    assert ended.code == 0, ended
    assert ended.stderr == ""
    assert "connection" not in ended.stdout
