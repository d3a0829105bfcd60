# SPDX-License-Identifier: Apache-2.0
"""A log line says what happened, and nothing from outside can write another one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from fastdl.logs import JsonFormatter, TextFormatter


def record(message: str, **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelname": "WARNING", "levelno": 30})
    vars(made).update(extra)
    return made


@pytest.fixture(autouse=True)
def no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)


def test_fields_follow_the_message() -> None:
    """None is a field that is not there; blanks are quoted."""
    line = TextFormatter().format(record("host left", host="h1", why="no beat", job=None))
    assert line.endswith(' warning host left host=h1 why="no beat"')


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\x1b[2Jb", "a\u2028b", "a\x00b"])
def test_a_name_forges_no_line(hostile: str) -> None:
    """Neither in the message nor in a field, in either style."""
    made = record(f"host {hostile} left", name_=hostile)
    for line in (TextFormatter().format(made), JsonFormatter().format(made)):
        assert len(line.splitlines()) == 1
        assert line.isprintable()


def test_a_traceback_is_part_of_the_line() -> None:
    """Collectors read lines."""
    made = record("a loop failed")
    try:
        raise ValueError("x\ny")
    except ValueError as exc:
        made.exc_info = (type(exc), exc, exc.__traceback__)
    assert len(TextFormatter().format(made).splitlines()) == 1
    assert "ValueError" in json.loads(JsonFormatter().format(made))["traceback"]


def test_journald_gets_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It adds the time itself."""
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert TextFormatter().format(record("host left")) == "<4>host left"
