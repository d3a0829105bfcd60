# SPDX-License-Identifier: Apache-2.0
"""Do the fuzz targets in Python hold over their corpora, and is the ledger's page its ledger?"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scripts import fuzzing, mutating

PYTHON = sorted(name for name, path in fuzzing.sources().items() if path.suffix == ".py")


@pytest.mark.parametrize("target", PYTHON)
def test_a_target_holds_over_its_corpus_and_near_it(target: str) -> None:
    """What broke a parser once must never break it again."""
    one_input = mutating.load(target)
    corpus = [
        path.read_bytes() for path in (fuzzing.TARGETS / "corpus" / f"fuzz_{target}").iterdir()
    ]
    assert corpus
    rng = random.Random(1)
    for data in [*corpus, *(mutating.mutated(corpus, rng) for _ in range(300))]:
        one_input(data)


@pytest.mark.parametrize("target", fuzzing.sources())
def test_every_target_says_what_it_proves(target: str) -> None:
    """A target without an invariant finds crashes and no wrong results."""
    assert len(fuzzing.invariant(fuzzing.sources()[target])) > 40


def test_the_page_is_the_ledger() -> None:
    """``scripts/fuzz --page`` writes it anew."""
    assert fuzzing.PAGE.read_text(encoding="utf-8") == fuzzing.page(fuzzing.recorded())


def test_recorded_runs_are_summed_by_target(tmp_path: Path) -> None:
    """The page's figures are what a reader relies on."""
    ledger = tmp_path / "ledger.csv"
    fuzzing.record([fuzzing.Run("2026-01-01", "abc", "qcow2", 1000, 5, 1)], ledger)
    fuzzing.record([fuzzing.Run("2026-01-02", "def", "qcow2", 2500, 5, 0)], ledger)
    page = fuzzing.page(fuzzing.recorded(ledger))
    assert "| qcow2 | 3,500 | 1 | 2 | 2026-01-02, def |" in page


def test_a_mutator_finds_what_is_there_to_find(tmp_path: Path) -> None:
    """A fuzzer that never fails would look like a parser that never does."""
    source = tmp_path / "fuzz_broken.py"
    source.write_text("def one_input(data):\n    assert data[:1] != b'B'\n")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a").write_bytes(b"C")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mutating, "TARGETS", tmp_path)
        code = mutating.main(
            ["broken", f"{tmp_path}/corpus", "-runs=100000", f"-artifact_prefix={tmp_path}/found-"]
        )
    assert code == 1
    (found,) = tmp_path.glob("found-crash-*")
    assert found.read_bytes()[:1] == b"B"
