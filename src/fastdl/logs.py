# SPDX-License-Identifier: Apache-2.0
"""How do the logs of agent and manager look? One line an event, nothing that can forge another.

As text, fields follow as ``key=value``; under systemd, which adds the time, the level is the
number that journald understands. As JSON, an event is an object.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from typing import Any, Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SYSLOG: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}
_NOISY: Final = ("aiohttp", "aiosqlite", "alembic", "asyncio", "sqlalchemy.pool")


def set_up(*, level: str | int, style: str = "text") -> None:
    """Send the logs of this process to standard error, from *level* on; *style*: text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(
        level=level.upper() if isinstance(level, str) else level, handlers=[handler], force=True
    )
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """For eyes and for journald."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*; a traceback is part of it."""
        fields = "".join(f" {key}={_quoted(value)}" for key, value in _fields(record).items())
        text = _printable(record.getMessage()) + fields
        if record.exc_info:
            text += " | " + _printable(self.formatException(record.exc_info).replace("\n", " | "))
        if "JOURNAL_STREAM" in os.environ:
            return f"<{_SYSLOG.get(record.levelname, 6)}>{text}"
        return f"{self.formatTime(record)} {record.levelname.lower()} {text}"


class JsonFormatter(logging.Formatter):
    """For collectors. JSON escapes whatever a hostile name might do to a log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object of *record* on one line."""
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as ``extra``."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and v is not None}


def _quoted(value: object) -> str:
    text = _printable(str(value))
    return f'"{text}"' if " " in text or not text else text


def _printable(text: str) -> str:
    """*text* without control characters, so that no message can forge a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
