# SPDX-License-Identifier: Apache-2.0
"""Do the manager's figures come from real processes, and is a missed promise said?"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.manager import suite
from benchmarks.manager.fleet import fleet
from benchmarks.manager.scale import SCENARIOS


def test_hosts_of_other_processes_connect_and_are_up(tmp_path: Path) -> None:
    """The load is real: a manager process, mutual TLS, hosts that beat."""
    with fleet(tmp_path, 6, processes=2) as (served, played, zone):
        done = played.ask("connect")
        assert [one["connected"] for one in done] == [3, 3]
        assert served.api("listHosts", state="Up", zoneid=zone)["count"] == 6
        assert served.rss_bytes() > 1 << 20
    assert served.process.poll() == 0


def test_every_promise_names_a_scenario_that_there_is() -> None:
    """And exactly one bound."""
    for promise in suite.PROMISES:
        assert promise.words[0] in SCENARIOS
        assert (promise.least is None) != (promise.most is None)


@pytest.mark.parametrize(("found", "kept"), [(299.0, False), (300.0, True)])
def test_a_missed_promise_is_shown(found: float, kept: bool) -> None:
    """A table that hides what is too slow would be worth nothing."""
    promise = suite.Promise(what="x", words=("admissions",), key="k", unit="a second", least=300)
    assert promise.kept(found) is kept
    entry = {"what": "x", "found": found, "promised": promise.text, "unit": "a second"}
    text = suite.table({"manager": [{**entry, "kept": promise.kept(found)}]})
    assert ("(missed)" in text) is not kept
