# SPDX-License-Identifier: Apache-2.0
"""What do conformance tests share? The combinations of ledger and fabric, each with its servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.env import nats, postgresql
from tests.env.combinations import PROPERTY
from tests.env.seats import COMBINATIONS, Combination


@pytest.fixture(params=COMBINATIONS)
def combination(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None], tmp_path: Path
) -> Iterator[Combination]:
    """Each combination that the product supports; skipped where its servers are missing."""
    record_property(PROPERTY, request.param)
    made = Combination(name=request.param, folder=tmp_path)
    with contextlib.ExitStack() as held:
        if "PostgreSQL" in made.name:
            made.database = request.getfixturevalue("own_database")
        if "NATS" in made.name:
            made.nats = held.enter_context(nats.server(tmp_path / "nats"))
        yield made


@pytest.fixture(scope="module")
def own_database(postgres: str, request: pytest.FixtureRequest) -> str:
    """A database for the tests of one file, which use names of their own."""
    name = request.module.__name__.rpartition(".")[2]
    return postgresql.fresh_database(postgres, f"conformance_{name}")
