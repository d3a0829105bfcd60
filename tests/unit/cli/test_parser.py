# SPDX-License-Identifier: Apache-2.0
"""Do options read as curl's, wget's and aria2's users write them?"""

from __future__ import annotations

import pytest

from fastdl.cli import get
from fastdl.cli.main import run_verb
from fastdl.cli.parser import Parser
from fastdl.cli.spellings import plain


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["-s", "5", "URL"], ["--max-connections=5", "URL"]),
        (["-s5"], ["--max-connections=5"]),
        (["-s", "URL"], ["-s", "URL"]),
        (["-x", "16"], ["--max-connections-per-origin=16"]),
        (["-x16"], ["--max-connections-per-origin=16"]),
        (["-x", "socks5h://p:1"], ["--proxy=socks5h://p:1"]),
        (["-O", "-"], ["--output=-"]),
        (["-O", "URL"], ["-O", "URL"]),
        (["-C", "-"], ["--continue"]),
        (["--", "-s", "5"], ["--", "-s", "5"]),
    ],
)
def test_the_value_tells_whose_option_it_is(typed: list[str], meant: list[str]) -> None:
    """curl's ``-x`` is a proxy, aria2's a number of connections, and so on."""
    assert plain(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--chekcsum", "x", "URL"], "is --checksum meant?"),
        (["URL", "--conect-timeout=5"], "is --connect-timeout meant?"),
        (["--checksum", f"md5:{'0' * 32}", "--checksum", f"md5:{'1' * 32}", "URL"], "twice"),
        (["-o", "a", "-o", "b", "URL"], "twice"),
        (["--help", "nonsense"], "no help topic"),
    ],
)
def test_a_mistake_is_answered(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one sentence and exit code 2."""
    with pytest.raises(SystemExit) as end:
        run_verb("get", typed)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert error.startswith("fastdl: USAGE: ")


def test_a_wrong_option_shows_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a secret."""
    with pytest.raises(SystemExit):
        run_verb("get", ["--headr=Authorization: Bearer s3cret", "URL"])
    assert "s3cret" not in capsys.readouterr().err


def test_help_has_topics(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it is short and lists them; ``all`` is everything."""
    shown = {}
    for words in (["--help"], ["--help", "network"], ["--help", "all"], ["-h"]):
        with pytest.raises(SystemExit) as end:
            run_verb("get", words)
        assert end.value.code == 0
        shown[" ".join(words)] = capsys.readouterr().out
    assert "network" in shown["--help"].splitlines()[-1]
    assert "--stall-timeout" not in shown["--help"]
    assert "--stall-timeout" in shown["--help network"]
    assert "--dir" not in shown["--help network"]
    assert {"--dir", "--stall-timeout"} <= set(shown["--help all"].split())
    assert shown["-h"] == shown["--help"]


def test_every_common_option_exists() -> None:
    """What ``--help`` alone shows."""
    parser = Parser(prog="fastdl")
    verbs = parser.add_subparsers(dest="verb")
    get.add_parser(verbs)
    known = {action.dest for action in verbs.choices["get"]._actions}
    assert set(get.COMMON) <= known
