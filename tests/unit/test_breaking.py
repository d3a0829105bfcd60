# SPDX-License-Identifier: Apache-2.0
"""Does ``scripts/chaos`` notice what it looks for?"""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.breaking import checks
from scripts.breaking.rig import FEW, CountingOrigin, Rig
from tests.env.faults import Rule, When
from tests.env.origin import Resource


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    """An origin that sends a little and then nothing."""
    rules = [Rule(when=When(), stall_at=10)]
    resources = {f"/{n}": Resource.of(bytes(100), rules=list(rules)) for n in range(9)}
    with CountingOrigin(resources=resources) as made:
        yield made
        made.release.set()


@contextlib.contextmanager
def downloads(origin: CountingOrigin, *wanted: tuple[str, str]) -> Iterator[None]:
    """(address, path) that are being downloaded at one time."""
    with contextlib.ExitStack() as stack:
        for address, path in wanted:
            made = http.client.HTTPConnection(
                "127.0.0.1", origin.port, timeout=10, source_address=(address, 0)
            )
            stack.callback(made.close)
            made.request("GET", path)
            made.getresponse()
        yield


def test_an_origin_counts_downloads_not_connections(origin: CountingOrigin) -> None:
    """Several connections of a host for one file are one download."""
    two = [("127.0.0.1", "/1"), ("127.0.0.2", "/1")]
    with downloads(origin, *two, ("127.0.0.1", "/1"), ("127.0.0.1", "/2")):
        assert origin.running == {*two, ("127.0.0.1", "/2")}
    assert origin.most == 3
    assert set(origin.starts) == {*two, ("127.0.0.1", "/2")}


def test_too_many_downloads_and_bytes_are_noticed(origin: CountingOrigin, tmp_path: Path) -> None:
    """One more than the limit; a fifth more than what was needed."""
    rig = Rig(tmp_path, None, [origin], [], [])  # type: ignore[arg-type]
    with downloads(origin, *(("127.0.0.1", f"/{n}") for n in range(FEW.bulk))):
        assert not [*checks.limits(rig), *checks.fetched(rig, 1)]
    origin.begin()
    with downloads(origin, *(("127.0.0.1", f"/{n}") for n in range(FEW.bulk + 1))):
        assert len([*checks.limits(rig)]) == 1
    origin.sent = int(1.2 * FEW.size)
    assert len([*checks.fetched(rig, 1)]) == 1


@dataclass
class Logged:
    """An agent that wrote *lines*."""

    name: str
    lines: str

    def log(self) -> str:
        """What it wrote."""
        return self.lines


STARTED = "info job started job={job} kind=download fence=7 pool={pool} template=t\n"
ENDED = "info job ended job={job} kind=download code=0 fetched={fetched}\n"


@pytest.mark.parametrize(
    ("lines", "fetched", "wrong"),
    [
        (("a", "b"), (9, 9), None),
        (("a", "a"), (9, 0), "is of another host"),
        (("s", "s"), (9, 0), None),
        (("s", "s"), (9, 9), "2 times"),
    ],
)
def test_commands_of_others_and_double_work_are_noticed(
    tmp_path: Path, lines: tuple[str, str], fetched: tuple[int, int], wrong: str | None
) -> None:
    """By the agents' logs: pool a is kvm0's, pool b is kvm1's, both have pool s."""
    pools = {"kvm0-pool": "a", "kvm1-pool": "b", "shared": "s"}
    agents = [
        Logged(
            f"kvm{n}",
            STARTED.format(job=f"j{pool}", pool=pool) + ENDED.format(job=f"j{pool}", fetched=more),
        )
        for n, (pool, more) in enumerate(zip(lines, fetched, strict=True))
    ]
    found = [*checks.jobs(Rig(tmp_path, None, [], agents, []), pools)]  # type: ignore[arg-type]
    assert bool(found) == bool(wrong)
    if wrong:
        assert any(re.search(wrong, text) for text in found)
