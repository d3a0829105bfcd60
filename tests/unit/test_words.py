# SPDX-License-Identifier: Apache-2.0
"""Do the words of docs/style.md hold, and do the old ones get fewer?"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = {
    "struck": re.compile(r"\b(?:struck|strikes?|striking)\b", re.IGNORECASE),
    "judge": re.compile(r"(?:\b|_)judg(?:e|es|ed|ing|ement)(?:\b|_)", re.IGNORECASE),
    "desk": re.compile(r"\bdesk\b", re.IGNORECASE),
    "verdict": re.compile(r"(?:\b|_)verdicts?(?:\b|_)", re.IGNORECASE),
    "hearsay": re.compile(r"(?:\b|_)(?:hearsay|liars?|lent)(?:\b|_)", re.IGNORECASE),
    "be had": re.compile(r"\b(?:be|is|are|was|were) had\b", re.IGNORECASE),
    "for ever": re.compile(r"\bfor ever\b", re.IGNORECASE),
    "heal": re.compile(r"(?:\b|_)heal(?:s|ed|ing)?(?:\b|_)", re.IGNORECASE),
}
NOT_YET: dict[str, dict[str, int]] = {
    "struck": {},
    "judge": {},
    "desk": {},
    "verdict": {},
    "hearsay": {},
    "be had": {},
    "for ever": {},
    "heal": {},
}
"""Word → folder → how often it is still there. Lower a number when you lower the count."""


def _folder(name: str) -> str:
    parts = name.split("/")
    return "/".join(parts[:3]) if name.startswith("src/") else parts[0]


def counted() -> dict[str, Counter[str]]:
    """Word → folder → how often it is there, in sources and documents but not in their history."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "src", "csrc", "docs/*.md", "README.md"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    found: dict[str, Counter[str]] = {word: Counter() for word in WORDS}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if name == "docs/style.md" or path.suffix not in {
            *(".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".md"),
        }:
            continue
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for word, pattern in WORDS.items():
            if hits := len(pattern.findall(text)):
                found[word][_folder(name)] += hits
    return found


@pytest.mark.parametrize("word", WORDS)
def test_an_old_word_comes_back_nowhere(word: str) -> None:
    """docs/style.md says which word to use instead."""
    allowed = NOT_YET[word]
    more = {
        folder: count for folder, count in counted()[word].items() if count > allowed.get(folder, 0)
    }
    assert not more, f"{word}: see docs/style.md"
