# SPDX-License-Identifier: Apache-2.0
"""The operator's rules for origins, from a file that is read again when it changes."""

from __future__ import annotations

import logging
import os
from typing import Final

from fastdl.engine.options import FetchOptions
from fastdl.errors import FastdlError
from fastdl.model.url import Url
from fastdl.sources.origin_rules import Rules, mirrors_of, read_rules, rule_for

log = logging.getLogger(__name__)

SENT_MAX: Final = 64
"""Rules that go to a host with one job."""


class Origins:
    """The rules in *path*; UsageError if they cannot be read at the start. None: no rules."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._read: tuple[int, int, int] | None = None
        self._rules: Rules = ()
        if path is not None:
            self._rules = _checked(path)
            self._read = self._stamp()

    @property
    def rules(self) -> Rules:
        """The rules in force: those in the file, or the last ones that could be read."""
        if self._path is not None and (now := self._stamp()) != self._read:
            self._read = now
            try:
                self._rules = _checked(self._path)
            except FastdlError as exc:
                log.error("the rules for origins stay as they were", extra={"why": str(exc)})
            else:
                log.info("the rules for origins changed", extra={"rules": len(self._rules)})
        return self._rules

    def about(self, sources: tuple[str, ...]) -> Rules:
        """The rules that a host needs for *sources*: theirs, their mirrors', and every block."""
        rules = self.rules
        if not rules:
            return ()
        urls = [Url.parse(source) for source in sources]
        urls += [mirror for url in urls for mirror in mirrors_of(rules, url)]
        found = [rule for url in urls if (rule := rule_for(rules, url)) is not None]
        found += [rule for rule in rules if rule.blocked is not None]
        return tuple(dict.fromkeys(found))[:SENT_MAX]

    def _stamp(self) -> tuple[int, int, int] | None:
        assert self._path is not None
        try:
            found = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _checked(path: str) -> Rules:
    """The rules in *path*, if every host can use them: else UsageError now, not in its jobs."""
    rules = read_rules(path)
    FetchOptions.build(origin_rules=rules, policy="strict")
    return rules
