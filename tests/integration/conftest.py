# SPDX-License-Identifier: Apache-2.0
"""What do the tests of how fast a transfer goes, and why, share? Origins at a distance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import origin, runner


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runner.Bench]:
    """A real nginx over payloads, and delay proxies before it."""
    if reason := origin.missing():
        pytest.skip(reason)
    with runner.bench(tmp_path_factory.mktemp("paths")) as opened:
        yield opened
