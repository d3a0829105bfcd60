# SPDX-License-Identifier: Apache-2.0
"""Does the reference of the commands say what their parsers say, and can it be used?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from fastdl.cli.main import VERBS
from scripts import reference


def test_what_is_written_is_what_the_parsers_say() -> None:
    """``python -m scripts.reference`` writes it anew."""
    for path, text in reference.files().items():
        assert (reference.ROOT / path).read_text(encoding="utf-8") == text, path


@pytest.mark.parametrize(("verb", "topic"), [("get", ["all"]), ("probe", []), ("host", [])])
def test_the_page_shows_what_the_command_prints(verb: str, topic: list[str]) -> None:
    """To the line: examples that are wrapped into one paragraph can be read by nobody."""
    done = subprocess.run(
        [sys.executable, "-m", "fastdl", verb, "--help", *topic],
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    page = (reference.ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert f"```text\n{done.stdout.rstrip()}\n```" in page


def test_every_verb_has_a_man_page_that_groff_takes() -> None:
    """Without a warning: a line that begins with a stray dot would be lost."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    man = reference.ROOT / reference.SHARE / "man" / "man1"
    assert {path.name for path in man.iterdir()} == {"fastdl.1", *(f"fastdl-{v}.1" for v in VERBS)}
    for path in man.iterdir():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-K", "utf-8", path],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "", path
        assert "SYNOPSIS" in re.sub(".\x08", "", done.stdout)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("g", "get"), ("get --check", "--checksum"), ("keystore im", "import")],
)
def test_bash_completes_verbs_and_options(words: str, wanted: str) -> None:
    """What a shell would offer after Tab."""
    script = reference.ROOT / reference.SHARE / "bash-completion/completions/fastdl"
    program = (
        f"source {script}; COMP_WORDS=(fastdl {words}); "
        'COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _shtab_fastdl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, check=True
    )
    assert wanted in done.stdout.split()
