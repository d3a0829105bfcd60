# SPDX-License-Identifier: Apache-2.0
"""Is the command line what people expect: help, versions, exit codes, one sentence an error?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastdl
from fastdl.cli.main import VERBS, main
from fastdl.errors import BY_CODE, FastdlError
from tests.env.command import run_fastdl

BUILT = [name for name in VERBS if (Path(fastdl.__file__).parent / "cli" / f"{name}.py").exists()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of its own for each run."""
    return tmp_path / "home"


def test_help_lists_every_verb_with_examples(home: Path) -> None:
    """A newcomer types --help first."""
    done = run_fastdl(["--help"], home=home)
    assert done.code == 0
    assert "examples:" in done.stdout
    for name, text in VERBS.items():
        assert f"  {name:<10}{text}" in done.stdout


@pytest.mark.parametrize("verb", BUILT)
def test_each_verb_has_help_with_an_example_of_itself(verb: str, home: Path) -> None:
    """Options alone do not tell how a command is used."""
    done = run_fastdl([verb, "--help"], home=home)
    assert done.code == 0, done
    assert done.stdout.startswith(f"usage: fastdl {verb}")
    assert done.stdout.count(f"fastdl {verb}") >= 2, "the usage line and an example"
    assert not done.stderr


def test_without_arguments_help_and_exit_code_2(home: Path) -> None:
    """Nothing was done, so a script must not think that all went well."""
    done = run_fastdl([], home=home)
    assert (done.code, done.stdout.startswith("usage: fastdl")) == (2, True)


def test_version_tells_what_was_built_in(home: Path) -> None:
    """A report of a fault needs the libraries' versions."""
    done = run_fastdl(["--version"], home=home)
    assert done.code == 0
    assert done.stdout.startswith(f"fastdl {fastdl.__version__} (libcurl ")
    for part in ("OpenSSL", "nfs", "nbd", "sha-256 by "):
        assert part in done.stdout


def test_an_unknown_verb_is_a_usage_error(home: Path) -> None:
    """A typing error gets the exit code of a typing error, and a way out."""
    done = run_fastdl(["fetch", "x"], home=home)
    assert (done.code, done.classes) == (2, ["USAGE"])
    assert "fastdl --help" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["get"],
        ["get", "x", "-o", "y", "--no-such-option"],
        ["get", "x", "-o", "y", "--checksum", "sha-256:short"],
        ["get", "x", "-o", "y", "--window", "many"],
        ["get", "x", "-o", "y", "--max-connections", "0"],
        ["get", "x", "-o", "y", "--header", "no colon"],
        ["get", "x", "-o", "y", "--header", "A: b\r\nHost: other"],
        ["get", "x", "-o", "y", "--keystore-pass-file", "p"],
        ["get", "gopher://127.0.0.1/x", "-o", "y"],
        ["probe"],
    ],
)
def test_a_wrong_command_line_has_exit_code_2_or_15(words: list[str], home: Path) -> None:
    """Nothing is fetched or written, and the sentence names what is wrong."""
    done = run_fastdl(words, home=home)
    assert done.code in (2, 15), done
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert not Path("y").exists()


def test_json_errors_are_one_object_on_standard_output(home: Path, tmp_path: Path) -> None:
    """Programs read the object, people the line on standard error."""
    missing = tmp_path / "missing.iso"
    done = run_fastdl(["get", str(missing), "-o", str(tmp_path / "out"), "--json"], home=home)
    error = done.json["error"]
    assert done.code == error["code"] != 0
    assert BY_CODE[done.code].code_name == error["class"] == done.classes[0]
    assert error["message"]


@pytest.mark.parametrize("cls", BY_CODE.values(), ids=lambda cls: cls.code_name)
def test_every_error_becomes_its_exit_code(
    cls: type[FastdlError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is the contract: no class may end in another one's number."""

    def fail(_name: str, _arguments: list[str]) -> int:
        raise cls("a sentence")

    monkeypatch.setattr("fastdl.cli.main.run_verb", fail)
    assert main(["get"]) == cls.exit_code
    assert f"fastdl: {cls.code_name}: a sentence" in capsys.readouterr().err


def test_a_bug_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unforeseen exception has the class of a bug and says how to see more."""

    def fail(_name: str, _arguments: list[str]) -> int:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("fastdl.cli.main.run_verb", fail)
    monkeypatch.delenv("FASTDL_DEBUG", raising=False)
    assert main(["get"]) == 74
    assert "ZeroDivisionError: oops (FASTDL_DEBUG=1 shows where)" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_bug(tmp_path: Path) -> None:
    """``fastdl … | head`` must not print a traceback."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "fastdl", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
            cwd=tmp_path,
        )
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


def test_get_help_names_every_exit_code_of_a_transfer(home: Path) -> None:
    """The codes that a script has to tell apart stand where it is written."""
    text = run_fastdl(["get", "--help"], home=home).stdout
    codes = text[text.index("exit codes:") :]
    for code in (0, *(c for c in BY_CODE if 10 <= c < 40), 130):
        assert f"{code} " in codes


def test_the_first_connect_loads_nothing_heavy(tmp_path: Path) -> None:
    """Start-up is paid by every host for every template: the path imports what it needs."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "-m", "fastdl", "get"),
            *("http://127.0.0.1:1/x", "-o", str(tmp_path / "x"), "--retry", "0"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )
    assert done.returncode == 10, done.stderr[-400:]
    loaded = {
        line.rsplit("|", 1)[1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    heavy = {"asyncio", "aiohttp", "rich", "sqlalchemy", "cryptography", "ssl", "shutil", "email"}
    assert not loaded & heavy
    assert json.dumps(sorted(name for name in loaded if name.startswith("fastdl.manager"))) == "[]"
