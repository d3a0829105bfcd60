# SPDX-License-Identifier: Apache-2.0
"""What goes over NATS: subjects, and messages that prove that a manager of this ledger sent them.

``fdl.LEDGER.kept.TOPIC.KEY``   a stream keeps the last message of each subject for an hour
``fdl.LEDGER.passing``          messages that are of no use later (``PASSING``)
``fdl.LEDGER.beat``             a manager is alive

LEDGER is derived from the managers' common secret, so that other installations may use the same
servers; every message is authenticated with another key of it, so that whoever else can publish
there can wake nobody. Nothing in a message is secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from typing import Final

from fastdl.manager.fabric import Message

MESSAGE_MAX: Final = 512 << 10
"""Bytes of one message; NATS refuses more than a MiB by default."""
_MAC: Final = 32
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Derive = Callable[[str], bytes]
"""Returns 32 bytes for a purpose that only managers of this ledger know."""


class Subjects:
    """The names of one ledger."""

    def __init__(self, derive: Derive) -> None:
        ledger = derive("fabric: name").hex()[:16]
        self.stream = f"FDL_{ledger}"
        self.kept = f"fdl.{ledger}.kept.>"
        self.passing = f"fdl.{ledger}.passing"
        self.beat = f"fdl.{ledger}.beat"
        self._prefix = f"fdl.{ledger}"

    def of(self, message: Message) -> str:
        """Where *message* is kept: of two with the same subject, only the later one is."""
        topic, *words = message
        return f"{self._prefix}.kept.{topic}.{_token(words)}"


def _token(words: list[str]) -> str:
    """One token of a subject for *words*; legible for a single id."""
    if len(words) == 1 and _PLAIN.fullmatch(words[0]):
        return words[0]
    return "-" + hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


class Envelopes:
    """Signs the messages of the manager *name*, and opens those of the others."""

    def __init__(self, derive: Derive, name: str) -> None:
        self._key = derive("fabric: messages")
        self._name = name

    def seal(self, *messages: Message) -> bytes:
        """Return *messages* as they are sent."""
        text = json.dumps([self._name, *messages]).encode()
        return hmac.digest(self._key, text, "sha256") + text

    def open(self, data: bytes) -> tuple[str, Sequence[Message]] | None:
        """Return (the manager that sent it, its messages); None for anything that no manager of
        this ledger sent."""
        mac, text = data[:_MAC], data[_MAC:]
        if len(data) > MESSAGE_MAX or not hmac.compare_digest(
            mac, hmac.digest(self._key, text, "sha256")
        ):
            return None
        try:
            name, *messages = json.loads(text)
        except (ValueError, TypeError):
            return None
        if not isinstance(name, str) or not all(map(_is_message, messages)):
            return None
        return name, [tuple(message) for message in messages]


def _is_message(found: object) -> bool:
    return isinstance(found, list) and bool(found) and all(isinstance(word, str) for word in found)
