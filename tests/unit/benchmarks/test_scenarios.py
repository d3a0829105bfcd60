# SPDX-License-Identifier: Apache-2.0
"""Names of scenarios are their definition: they must be read back exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scenarios import (
    DIGESTS,
    IMAGES,
    PATHS_BY,
    SCHEMES,
    SETS,
    TARGETS,
    MiB,
    Scenario,
    parse_scenario,
    resolve,
)

_SCENARIOS = st.builds(
    Scenario,
    scheme=st.sampled_from(SCHEMES),
    path=st.sampled_from(PATHS_BY),
    mirrors=st.integers(1, 8),
    connections=st.integers(0, 64),
    rtt_ms=st.integers(0, 500),
    link_bytes_s=st.integers(0, 1000).map(lambda n: n * 1_000_000),
    per_connection_bytes_s=st.integers(0, 100).map(lambda n: n * MiB),
    size=st.integers(1, 5000).map(lambda n: n * MiB),
    image=st.sampled_from(IMAGES),
    target=st.sampled_from(TARGETS),
    digest=st.sampled_from(DIGESTS),
)


@given(_SCENARIOS)
def test_a_name_gives_its_scenario_back(scenario: Scenario) -> None:
    """Results are found and repeated by name, so a name must lose nothing."""
    assert parse_scenario(scenario.name) == scenario


@pytest.mark.parametrize("name", ["ftp-1GiB", "http-0conn", "http-https", "", "http-1TiB"])
def test_a_name_with_an_unknown_or_doubled_part_is_refused(name: str) -> None:
    """A typo must not quietly measure something else."""
    with pytest.raises(ValueError, match=r"axis|twice|zero"):
        parse_scenario(name)


def test_sets_resolve_to_each_scenario_once() -> None:
    """A scenario named twice must not be run twice."""
    found = resolve(["headline", "headline", SETS["headline"][0].name])
    assert found == list(SETS["headline"])


def test_only_images_onto_devices_are_converted() -> None:
    """Rivals that only copy bytes take part exactly where nothing is converted."""
    assert parse_scenario("http-qcow2zstd-block").converts
    assert not parse_scenario("http-qcow2zstd-file").converts
    assert not parse_scenario("http-raw-block").converts
