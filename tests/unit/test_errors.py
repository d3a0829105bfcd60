# SPDX-License-Identifier: Apache-2.0
"""Is the table of errors one table: for code, C core, command line and documentation?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastdl import errors
from fastdl.errors import BY_CODE, FastdlError, InternalError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, FastdlError) and value is not FastdlError
]


def test_every_class_has_a_code_and_a_name_of_its_own() -> None:
    """A script that looks at the exit code must know what happened."""
    assert len({cls.exit_code for cls in CLASSES}) == len(CLASSES)
    assert len({cls.code_name for cls in CLASSES}) == len(CLASSES)
    assert {cls.exit_code: cls for cls in CLASSES} == BY_CODE
    assert all(1 < cls.exit_code <= 130 for cls in CLASSES)
    assert BY_CODE[74] is InternalError


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_says_where_and_keeps_its_fields(cls: type[FastdlError]) -> None:
    """The JSON object and the sentence come from the same fields."""
    exc = cls("it failed", phase="fetch", origin="http://a/b", offset=7)
    assert str(exc) == "it failed; origin http://a/b; offset 7"
    assert exc.to_dict() == {
        "code": cls.exit_code,
        "class": cls.code_name,
        "message": "it failed",
        "phase": "fetch",
        "origin": "http://a/b",
        "offset": 7,
        "retryable": cls.default_retryable,
    }
    assert cls("x", retryable=not cls.default_retryable).retryable != cls.default_retryable
    assert cls.__doc__


def test_the_c_core_uses_the_same_numbers() -> None:
    """Nothing is translated between C and Python, so nothing may differ."""
    text = (ROOT / "csrc" / "base" / "err.h").read_text()
    numbers = {name: int(n) for name, n in re.findall(r"FDL_E_(\w+) = -(\d+)", text)}
    assert len(numbers) > 15
    for name, number in numbers.items():
        assert BY_CODE[number].code_name == name


def test_the_documentation_lists_exactly_these_codes() -> None:
    """An operator reads the page, a script the code."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = set(re.findall(r"^\| (\d+) \| `?(\w+)`? \| `?(\w+)`? \|", page, re.MULTILINE))
    assert rows == {(str(c.exit_code), c.code_name, c.__name__) for c in CLASSES}
