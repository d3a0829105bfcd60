# SPDX-License-Identifier: Apache-2.0
"""Does each promise of docs/security.md name the tests that attack it, and are they there?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
CASE = re.compile(r"\b[HIMST]\d\d\b")
NAMED = re.compile(r"`(tests/[\w/]+(?:\.\w+)?|test_\w+\.py)?(?:::)?(test_\w+)?`")


def sections() -> Iterator[tuple[str, str]]:
    """Each section's title and text."""
    for part in PAGE.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        yield title, text


def bullets(text: str) -> list[str]:
    """The items of a list, their lines joined."""
    return [" ".join(item.split()) for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]]


def promises() -> list[str]:
    """The rows of the tables that name their tests, and the items of the lists that do."""
    found = []
    for title, text in sections():
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        if rows and rows[0].endswith("| tested by |"):
            found += rows[1:]
        if title.endswith("which tests attack"):
            found += bullets(text)
    return found


def evidence(promise: str) -> list[str]:
    """The tests and cases that a promise names; of a row, in its last column."""
    text = promise.rstrip("| ").rpartition("|")[2] if promise.startswith("|") else promise
    return CASE.findall(text) + [a or b for a, b in NAMED.findall(text) if a or b]


def test_every_promise_names_an_attack() -> None:
    """What no test attacks belongs under "What is not defended against"."""
    assert len(promises()) > 50
    assert [promise for promise in promises() if not evidence(promise)] == []


def test_every_attack_that_is_named_is_there() -> None:
    """A test that was renamed or removed proves nothing."""
    sources = [path for kind in ("*.py", "*.c") for path in TESTS.rglob(kind)]
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    names = set(re.findall(r"\b(?:def|void|int) (test_\w+)\(", "\n".join(texts.values())))
    files = {path.name for path in sources}
    cases = {path.stem for path in (TESTS / "adversity" / "cases").glob("*.toml")}
    named = 0
    for path, name in NAMED.findall(PAGE):
        named += bool(path or name)
        if path.startswith("tests/"):
            assert (TESTS.parent / path).exists(), path
        elif path:
            assert path in files, path
        if name and path.startswith("tests/"):
            assert f" {name}(" in texts[TESTS.parent / path], f"{path}::{name}"
        elif name:
            assert name in names, name
    assert named > 60
    assert set(CASE.findall(PAGE)) <= cases
