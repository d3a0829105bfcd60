# SPDX-License-Identifier: Apache-2.0
"""What does a bad mirror among good ones cost? Some time at most; never a byte.

Counted in requests and bytes, at the origins; times belong to the benchmarks, but for the bound on
what a mirror costs that hardly gives anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.model.units import parse_size
from tests.adversity.casefile import words_for
from tests.env.command import run_fastdl
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random

BLOCK = 256 << 10
CONTENT = pseudo_random(21, 64 << 20)
BLOCKS = len(CONTENT) // BLOCK
GOOD = (Rule(rate=40e6),)
"""Slow enough that every mirror gets its turn."""
DEAD = (Rule(head_cut=0, reset=True),)


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Report the id that the test's name begins with."""
    record_property("fault-matrix-id", request.node.name[5:8].upper())


@contextlib.contextmanager
def mirrors(*rules: tuple[Rule, ...]) -> Iterator[list[FaultOrigin]]:
    """One mirror of the same content for each list of faults."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(FaultOrigin({"/x.raw": Resource.of(CONTENT, rules=list(rule))}))
            for rule in rules
        ]


def fetch(tmp_path: Path, urls: list[str], **options: Any) -> fastdl.Result:
    """Fetch from *urls* in small blocks; the target must be right."""
    target = tmp_path / "x.raw"
    checksum = f"sha-256:{hashlib.sha256(CONTENT).hexdigest()}"
    values = {"checksum": checksum, "block_size": BLOCK, "stall_timeout": 3.0}
    result = fastdl.fetch_sync(urls, target, **{**values, **options})
    assert hashlib.sha256(target.read_bytes()).hexdigest() == checksum[8:]
    return result


def attempts_on_a_dead_mirror(result: fastdl.Result) -> float:
    """What is allowed: its connections once, to find out; then 2 % of what is fetched, and a
    look now and then whether it is back (which takes more the slower this machine is)."""
    return 4 + BLOCKS * 0.02 + 2 * result.seconds


def test_c02_a_mirror_that_refuses_connections_is_hardly_asked_again(tmp_path: Path) -> None:
    """C02: one dead mirror of three; after it is known, nearly all work goes elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"http://127.0.0.1:{gone.getsockname()[1]}/x.raw"
    with mirrors(GOOD, GOOD) as good:
        result = fetch(tmp_path, [dead, *(m.url("/x.raw") for m in good)])
    found = {m.url: m for m in result.mirrors}
    assert found[dead].bytes == 0
    assert 1 <= found[dead].errors <= attempts_on_a_dead_mirror(result)


def test_c02_a_mirror_that_resets_each_connection_is_hardly_asked_again(tmp_path: Path) -> None:
    """C02: dead in another way: it accepts, and never answers with more than a reset."""
    with mirrors(DEAD, GOOD, GOOD) as (dead, one, two):
        result = fetch(tmp_path, [m.url("/x.raw") for m in (dead, one, two)])
        assert 1 <= len(dead.requests) <= attempts_on_a_dead_mirror(result)


@pytest.mark.parametrize(
    "fault",
    [
        {"head_cut": 0, "reset": True},
        {"status": 503, "body": ""},
        {"body_cut": 100_000, "reset": True},
    ],
    ids=["reset", "503", "cut"],
)
def test_c02_a_flapping_mirror_harms_nothing(tmp_path: Path, fault: dict[str, Any]) -> None:
    """C02: every other answer of one mirror fails."""
    flapping = (Rule(when=When(every=2), **fault), *GOOD)
    with mirrors(flapping, GOOD, GOOD) as servers:
        result = fetch(tmp_path, [m.url("/x.raw") for m in servers])
    assert len(result.mirrors) == 3


@pytest.mark.parametrize(
    "fault", [{"head_cut": 0, "reset": True}, {"status": 503, "body": ""}], ids=["reset", "503"]
)
def test_c02_all_mirrors_dead_and_back_again(tmp_path: Path, fault: dict[str, Any]) -> None:
    """C02: nobody answers for a while in the middle; when they do, the job goes on by itself."""
    away = (Rule(when=When(first_nth=3, last_nth=5), **fault), *GOOD)
    with mirrors(away, away, away) as servers:
        result = fetch(tmp_path, [m.url("/x.raw") for m in servers], retry=10)
        assert sum(len(m.requests) for m in servers) < 3 * BLOCKS
    assert result.fetched_bytes < len(CONTENT) * 1.25


def test_c03_a_slow_mirrors_share_falls_and_its_tail_is_taken_over(tmp_path: Path) -> None:
    """C03: 40 kB/s among 12 MB/s: little is left to it, and nobody waits for its last range: one
    takes it longer than all the others need, also on a busy machine."""
    slow, good = (Rule(rate=40e3),), (Rule(rate=12e6),)
    with mirrors(slow, good, good) as servers:
        result = fetch(tmp_path, [m.url("/x.raw") for m in servers])
        asked = sum(last - first + 1 for first, last in map(_range, servers[0].requests) if last)
    (share,) = [m.bytes for m in result.mirrors if m.url == servers[0].url("/x.raw")]
    assert share <= len(CONTENT) * 0.06, "a fair share would be a third"
    assert share < asked, "all that it was asked for was waited for"


def _range(request: Any) -> tuple[int, int]:
    first, last = request.range or (0, 0)
    return first or 0, last or 0


def test_g08_a_wrong_piece_is_discarded_and_its_mirror_struck_off(tmp_path: Path) -> None:
    """G08: as far as it exists. Hosts do not serve each other yet; what peers will be is what
    mirrors are: their bytes count only under the digest of the metalink, never by their word."""
    # Beyond the first bytes, which are fetched before there is a job and belong to nobody.
    wrong = tuple(Rule(corrupt=at) for at in range(4 << 20, len(CONTENT), 1 << 20))
    with mirrors((*wrong, *GOOD), GOOD) as servers:
        words = words_for(CONTENT, [m.base for m in servers])
        urls = "".join(f"<url>{m.url('/x.raw')}</url>" for m in servers)
        text = "{begin}<file name='x'>{whole}{pieces}{urls}</file>{end}"
        document = text.format(**words, urls=urls).encode()
        metalink = Resource.of(document, content_type="application/metalink4+xml")
        servers[1].resources["/x.meta4"] = metalink
        result = fetch(tmp_path, [servers[1].url("/x.meta4")], checksum=None)
    (liar,) = [m for m in result.mirrors if m.url == servers[0].url("/x.raw")]
    assert result.integrity == "strong"
    assert (liar.state, liar.reason) == ("disqualified", "a piece does not match its digest")
    assert len(servers[0].requests) <= 8, "it was asked again and again"


TRICKLE = 1200
"""Bytes a second: above any stall limit, and an hour for what others give in a second."""


@pytest.mark.parametrize("block", ["64K", "1M", "4M"])
@pytest.mark.parametrize("first", ["good", "slow"])
@pytest.mark.parametrize("more", [(), ("--max-connections", "1")], ids=["free", "one"])
def test_c03_a_trickling_mirror_costs_a_bounded_time(
    tmp_path: Path, block: str, first: str, more: tuple[str, ...]
) -> None:
    """C03: with one good mirror the end comes within twice the time without the slow one, and 5
    seconds, whatever the block; and what comes twice is next to nothing, but for one block: a busy
    machine makes also the good mirror's late by a second."""
    content = pseudo_random(19, 4 << 20)
    words = ["--json", "--progress", "none", "--block-size", block, *more]
    words += ["--checksum", f"sha-256:{hashlib.sha256(content).hexdigest()}"]
    rate = [Rule(rate=5_000_000)]
    with (
        FaultOrigin({"/i": Resource.of(content, rules=rate)}) as good,
        FaultOrigin({"/i": Resource.of(content, rules=[Rule(rate=TRICKLE)])}) as slow,
    ):
        urls = [good.url("/i"), slow.url("/i")]
        if first == "slow":
            urls.reverse()
        took = []
        for number, sources in enumerate(([good.url("/i")], urls, [good.url("/i")])):
            target = tmp_path / str(number)
            begun = time.monotonic()
            done = run_fastdl(
                ["get", *sources, "-o", str(target), *words], home=tmp_path / "h", timeout=60
            )
            took.append(time.monotonic() - begun)
            assert done.code == 0, done
            assert target.read_bytes() == content
            twice = done.json["fetched_bytes"] - len(content)
            assert twice <= 0.15 * len(content) + parse_size(block)
        before, with_slow, after = took
        assert with_slow <= 2 * max(before, after) + 5, took
