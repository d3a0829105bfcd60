# SPDX-License-Identifier: Apache-2.0
"""Is the table of errors one table: for code, C core, command line and documentation?"""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest

from fastdl import errors
from fastdl.errors import (
    BY_CODE,
    REASONS,
    FastdlError,
    InternalError,
    LimitError,
    NetError,
    Reason,
    as_error,
    error_from,
)
from fastdl.wire.codec import error_of, failure_of

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
        "reason": None,
        "http_status": None,
        "retry_after_s": None,
        "public_source": False,
    }
    assert cls("x", retryable=not cls.default_retryable).retryable != cls.default_retryable
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_way_to_another_process(cls: type[FastdlError]) -> None:
    """What an agent decides by was raised in a process that it started."""
    exc = cls(
        "it failed",
        phase="fetch",
        origin="http://a/b",
        offset=7,
        retryable=True,
        reason=Reason.NEEDS_STAGING,
        http_status=429,
        retry_after_s=3.5,
        public_source=True,
    )
    again = error_from(json.loads(json.dumps(exc.to_dict())))
    assert type(again) is cls
    assert again.to_dict() == exc.to_dict()
    assert again.reason is Reason.NEEDS_STAGING
    assert failure_of(exc).retry_after_s == 3.5
    assert error_of(failure_of(exc)).http_status == 429


def test_who_raised_an_error_knows_better_than_who_passes_it_on() -> None:
    """Each frame on the way up would say that it happened there."""
    exc = NetError("reset", phase="fetch").add_context(phase="resolve", origin="http://a/")
    assert (exc.phase, exc.origin) == ("fetch", "http://a/")


@pytest.mark.parametrize("exc", [MemoryError(), OSError(errno.ENOMEM, "x")])
def test_no_memory_is_one_class_and_no_bug(exc: Exception) -> None:
    """Somebody has to give the machine more; nobody has to mend fastdl."""
    assert as_error(exc).exit_code == LimitError.exit_code
    assert failure_of(exc).code == LimitError.exit_code


def test_the_c_core_gives_the_same_reasons() -> None:
    """They cross as numbers."""
    text = (ROOT / "csrc" / "base" / "err.h").read_text()
    names = re.findall(r"FDL_REASON_(\w+)", text.partition("enum fdl_reason")[2])
    assert [None if n == "NONE" else Reason[n] for n in names] == list(REASONS)


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
