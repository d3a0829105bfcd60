# SPDX-License-Identifier: Apache-2.0
"""Managers whose calls to their database fail, come short, or are the last ones.

On SQLite the calls on its files, on PostgreSQL those on the connections to the server, from the
manager's start to its end; in between it is sent three commands.

  stuck    the next manager serves, and takes each command that did not take effect before
  wrong    each command took effect once, whole; SQLite's own check finds nothing
  bug      no answer names a bug
  hang     each command is answered in time, and the manager ends when it is told to
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from fastdl.cli import api_client
from fastdl.errors import FastdlError, NetError
from tests.env import postgresql, seam
from tests.env.warm import Started, Warm, warm

ERRNOS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.ENOMEM, errno.EACCES)
SERVED_S = 40.0
ANSWERED_S = 20.0
COMMANDS = {
    "createZone": {"name": "z2"},
    "createUser": {"username": "user2", "password": "password2"},
    "updateConfiguration": {"name": "event.purge.delay", "value": "77"},
}
"""What a manager is sent, and what it should hold once then."""
TAKEN = ("already", "exists")
"""How a command says that it took effect before."""


class Point(NamedTuple):
    """One experiment; *nth* of the calls named *call* that are about the database."""

    act: str
    engine: str
    call: str
    nth: int
    ever: bool


class Managers:
    """A manager's state and database to begin with, copied for each point."""

    def __init__(self, folder: Path, command: Warm, server: str | None) -> None:
        self.folder = folder
        self.state = folder / "manager"
        self.engines = ["sqlite", *(["postgresql"] if server else [])]
        self._server = server
        self._command = command
        self._used = 0
        self._database: dict[str, str | None] = {}
        self._calls: dict[str, dict[str, int]] = {}
        for engine in self.engines:
            self._begin(engine)

    def _begin(self, engine: str) -> None:
        self._database[engine] = (
            postgresql.fresh_database(self._server, "torture_start")
            if engine == "postgresql" and self._server
            else None
        )
        with self.serving(engine) as (credentials, _):
            api_client.call(credentials, "createZone", {"name": "z1"})
        shutil.move(self.state, self.folder / f"start-{engine}")

    def reset(self, engine: str) -> None:
        """The state and the database of the beginning."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.folder / f"start-{engine}", self.state)
        if engine == "postgresql":
            self._used += 1
            self._database[engine] = self._copied(f"torture_{self._used}")

    def _copied(self, name: str) -> str:
        assert self._server is not None
        base, _, _ = self._server.rpartition("/")
        old = f"torture_{self._used - 1}"
        psql = ["psql", self._server, "-q"]
        for sql in (
            f"DROP DATABASE IF EXISTS {old} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE torture_start",
        ):
            subprocess.run([*psql, "-c", sql], check=True, capture_output=True, timeout=60)
        return f"{base}/{name}"

    def about(self, engine: str) -> str:
        """What the names of calls to the database contain."""
        if engine == "sqlite":
            return "manager.db"
        assert self._server is not None
        return f"tcp:{self._server.rpartition('/')[0].rpartition(':')[2]}"

    def start(self, engine: str, seam_words: Mapping[str, str] | None = None) -> Started:
        """Start a manager."""
        for name in ("stdout", "stderr"):
            (self.folder / name).unlink(missing_ok=True)
        words = ["manager", "--state", str(self.state), "--listen", "127.0.0.1:0",
                 "--agent-listen", "127.0.0.1:0"]  # fmt: skip
        if url := self._database[engine]:
            words += ["--database", url]
        return self._command.start(words, home=self.folder, seam_words=seam_words)

    def served(self, started: Started) -> dict[str, str] | None:
        """Its credentials once it serves; None where it ends instead. TimeoutError."""
        end = time.monotonic() + SERVED_S
        while time.monotonic() < end:
            if found := self._serving():
                return found
            if started.ended():
                return None
            time.sleep(0.01)
        raise TimeoutError("the manager neither serves nor ends")

    def _serving(self) -> dict[str, str] | None:
        """The credentials, once its log and they name the same address."""
        for name in ("stdout", "stderr"):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                for line in (self.folder / name).read_text().splitlines():
                    if '"manager serves"' not in line:
                        continue
                    found: dict[str, str] = json.loads((self.state / "admin.json").read_text())
                    return found if found["url"] == json.loads(line)["url"] else None
        return None

    @contextlib.contextmanager
    def serving(self, engine: str) -> Iterator[tuple[dict[str, str], Started]]:
        """An undisturbed manager; ended at the end."""
        started = self.start(engine)
        try:
            credentials = self.served(started)
            if credentials is None:
                raise AssertionError(started.finish(timeout=5))
            yield credentials, started
        finally:
            _end(started)

    def calls(self, engine: str) -> dict[str, int]:
        """How many calls on the database an undisturbed manager makes."""
        if engine not in self._calls:
            self.reset(engine)
            log = self.folder / "log"
            log.unlink(missing_ok=True)
            started = self.start(engine, seam.environment(log=log))
            credentials = self.served(started)
            assert credentials is not None
            _sent(credentials, COMMANDS)
            _end(started)
            names = [c.name for c in seam.calls(log) if self.about(engine) in c.about]
            self._calls[engine] = {**collections.Counter(names), "*": len(names)}
        return self._calls[engine]

    def own_check(self, engine: str) -> list[str]:
        """What SQLite itself finds wrong."""
        if engine != "sqlite":
            return []
        with contextlib.closing(sqlite3.connect(self.state / "manager.db")) as opened:
            rows = opened.execute("PRAGMA integrity_check").fetchall()
            rows += opened.execute("PRAGMA foreign_key_check").fetchall()
        return [] if rows == [("ok",)] else [f"wrong: {rows[:3]}"]


@contextlib.contextmanager
def managers(folder: Path) -> Iterator[Managers]:
    """A process that forks managers, and a PostgreSQL server where there is one."""
    with contextlib.ExitStack() as stack:
        server = None
        with contextlib.suppress(pytest.skip.Exception):
            server = stack.enter_context(postgresql.server())
        made = folder / "managers"
        made.mkdir()
        yield Managers(made, stack.enter_context(warm(made, manager=True)), server)


def drawn(made: Managers, rng: Random) -> Point:
    """A point."""
    engine = rng.choice(made.engines)
    counts = made.calls(engine)
    act, call = rng.choice(("kill", "fail", "fail", "short")), "*"
    if act == "fail":
        act = f"fail-{rng.choice(ERRNOS)}"
        call = rng.choice(sorted(counts.keys() - {"*"}))
    elif act == "short":
        names = ("write", "pwrite", "read", "pread", "recv", "send")
        call = rng.choice([name for name in names if name in counts])
    ever = act not in ("kill", "fail-4") and rng.random() < 0.5
    return Point(act, engine, call, rng.randint(1, counts[call]), ever)


def tried(made: Managers, point: Point) -> list[str]:
    """Run *point*; what does not hold."""
    made.reset(point.engine)
    do = point.act.removeprefix("fail-")
    words = seam.environment(
        nth=point.nth, call=point.call, do=do, ever=point.ever, only=made.about(point.engine)
    )
    started = made.start(point.engine, words)
    found: list[str] = []
    try:
        credentials = made.served(started)
        if credentials is not None:
            found += _sent(credentials, COMMANDS)
    finally:
        _end(started)
    return found + made.own_check(point.engine) + _next(made, point)


def _next(made: Managers, point: Point) -> list[str]:
    """The next manager, undisturbed, and the same commands again."""
    try:
        with made.serving(point.engine) as (credentials, _):
            found = []
            for command, params in COMMANDS.items():
                try:
                    api_client.call(credentials, command, params, timeout_s=ANSWERED_S)
                except FastdlError as exc:
                    if not any(text in exc.message for text in TAKEN):
                        found.append(f"stuck: {command}: {exc.message[-200:]}")
            return found + _held(credentials)
    except AssertionError as exc:
        return [f"stuck: {str(exc)[-300:]}"]


def _held(credentials: dict[str, str]) -> list[str]:
    """What the manager does not hold exactly once."""

    def rows(command: str, word: str, **params: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api_client.call(credentials, command, params).get(word, [])
        return found

    zones = [row for row in rows("listZones", "zone") if row["name"] == "z2"]
    users = [row for row in rows("listUsers", "user") if row["username"] == "user2"]
    values = rows("listConfigurations", "configuration", name="event.purge.delay")
    found = [
        f"wrong: {len(n)} {what}" for what, n in (("zones", zones), ("users", users)) if len(n) != 1
    ]
    return found if values[0]["value"] == "77" else [*found, "wrong: the setting"]


def _sent(credentials: dict[str, str], commands: dict[str, dict[str, str]]) -> list[str]:
    """Send *commands* until the manager is gone; what is wrong with its answers."""
    found = []
    for command, params in commands.items():
        begun = time.monotonic()
        try:
            api_client.call(credentials, command, params, timeout_s=ANSWERED_S)
        except NetError as exc:
            if time.monotonic() - begun > ANSWERED_S - 1:
                found.append(f"hang: {command}: {exc.message}")
            break
        except FastdlError as exc:
            if "a bug" in exc.message:
                found.append(f"bug: {command}: {exc.message[-200:]}")
    return found


def _end(started: Started) -> None:
    if not started.ended():
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.pid, signal.SIGTERM)
    started.finish(timeout=60)
