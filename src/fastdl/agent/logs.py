# SPDX-License-Identifier: Apache-2.0
"""How do the agent's logs look? One line an event, fields as ``key=value``, nothing secret.

systemd adds the time; the level goes in front as the number that journald understands
when standard error is its stream, as a word otherwise.
"""

from __future__ import annotations

import logging
import os
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SYSLOG = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {key}={_shown(value)}" for key, value in vars(record).items() if key not in _STANDARD
        )
        text = _printable(record.getMessage()) + fields
        if record.exc_info:
            text += " | " + _printable(self.formatException(record.exc_info).replace("\n", " | "))
        if "JOURNAL_STREAM" in os.environ:
            return f"<{_SYSLOG.get(record.levelname, 6)}>{text}"
        return f"{self.formatTime(record)} {record.levelname.lower()} {text}"


def to_stderr(level: int) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _shown(value: object) -> str:
    text = _printable(str(value))
    return f'"{text}"' if " " in text else text


def _printable(text: str) -> str:
    """*text* without control characters, so that no message can forge a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
