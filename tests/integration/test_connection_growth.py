# SPDX-License-Identifier: Apache-2.0
"""How many connections does an origin get? More than a few only while each brings its share."""

from __future__ import annotations

from pathlib import Path

import pytest

import fastdl
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(67, 48 * MIB)


def at_once(tmp_path: Path, **options: int) -> int:
    """The most connections at a time to an origin that sends 3 MiB/s over each."""
    resource = Resource.of(CONTENT, rules=[Rule(rate=3 * MIB)])
    with FaultOrigin({"/i.raw": resource}) as origin:
        fastdl.fetch_sync(origin.url("/i.raw"), tmp_path / "x", **options)
        most: int = origin.most_at_once
    assert (tmp_path / "x").read_bytes() == CONTENT
    return most


def test_connections_grow_while_each_brings_more(tmp_path: Path) -> None:
    """An address of the site's own is given up to sixteen."""
    assert 4 < at_once(tmp_path) <= 16


@pytest.mark.parametrize("most", [1, 3])
def test_a_limit_that_was_given_holds(tmp_path: Path, most: int) -> None:
    """However well more would pay."""
    assert at_once(tmp_path, max_connections_per_origin=most) <= most
