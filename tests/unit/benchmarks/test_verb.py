# SPDX-License-Identifier: Apache-2.0
"""``fastdl bench`` finds the suite in the checkout and says what to do outside of one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from fastdl.cli import bench
from fastdl.errors import UsageError


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fastdl")
    bench.add_parser(parser.add_subparsers(dest="verb"))
    return parser.parse_args(["bench", *words])


def test_the_verb_has_the_options_of_the_suite() -> None:
    """One command line, whichever way the suite is started."""
    args = _parse("--gate", "--only", "instructions")
    assert args.gate
    assert args.only == "instructions"


@pytest.mark.parametrize("words", [[], ["--gate"], ["headline", "--rounds", "3"]])
def test_outside_a_checkout_the_verb_says_where_to_get_the_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    """Whatever was asked, the answer is what to do, not a complaint about an option."""
    monkeypatch.setattr(bench, "_HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="source checkout"):
        bench.run(_parse(*words))


def test_outside_a_checkout_help_is_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A question about the options is no mistake."""
    monkeypatch.setattr(bench, "_HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert bench.run(_parse("--help")) == 0
    assert capsys.readouterr().out.count("fastdl bench") >= 2
