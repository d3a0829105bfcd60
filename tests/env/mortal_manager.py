# SPDX-License-Identifier: Apache-2.0
"""``fastdl manager`` in a process of its own that can be told at which statement to die.

The product knows nothing of it: the launcher counts what SQLAlchemy is about to execute or to
commit, and sends its own process SIGKILL when the count is up. No handler runs, nothing is
flushed, the connection just ends; what the database holds then is what a crash leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

from tests.env.fake_agent import FakeAgent
from tests.env.manager import Client

_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once by the fork server: a restart then costs a tenth of what an interpreter does.
_CONTEXT.set_forkserver_preload(["tests.env.mortal_manager", "fastdl.manager.app"])


def _serve(words: list[str], log: str, left: Any) -> None:
    """In the child: run the command line; die where *left* statements have been counted."""
    from sqlalchemy import Engine, event  # noqa: PLC0415

    from fastdl.cli.main import main  # noqa: PLC0415

    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)

    def count(*_event: Any) -> None:
        if left.value > 0:
            left.value -= 1
            if not left.value:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    raise SystemExit(main(words))


class SteadyAgent(FakeAgent):
    """A host that goes on with its work while its manager is away."""

    async def say(self, message: Any) -> None:
        """Send; what cannot be sent now is repeated after the next welcome."""
        with contextlib.suppress(ConnectionError):
            await super().say(message)


class MortalManager:
    """One state folder, and the manager that runs (again) on it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "manager"
        self.agents: list[SteadyAgent] = []
        self.api: Client
        self.starts = 0
        self._log = folder
        self._address = ("", 0)
        self._left: Any = RawValue(ctypes.c_long, -1)
        self._process: ForkServerProcess | None = None

    async def start(self) -> None:
        """Start the manager on what is there; returns when it serves and the hosts are back."""
        self.starts += 1
        self._left.value = -1
        log = self._log / f"manager-{self.starts}.log"
        words = [
            "manager",
            "--state",
            str(self.state),
            "--listen",
            "127.0.0.1:0",
            "--agent-listen",
            "127.0.0.1:0",
        ]
        self._process = _CONTEXT.Process(target=_serve, args=(words, str(log), self._left))
        self._process.start()
        async with asyncio.timeout(30):
            while not (serving := self._serving(log)):
                assert self._process.is_alive(), log.read_text() if log.exists() else "no log"
                await asyncio.sleep(0.01)
        host, _, port = serving["agents"].rpartition(":")
        self._address = (host, int(port))
        self.api = Client(json.loads((self.state / "admin.json").read_text()))
        for agent in self.agents:
            await agent.close_connection_only()
            agent.address = self._address
            await agent.connect()

    def _serving(self, log: Path) -> dict[str, str] | None:
        """What the log says once the API answers and the credentials name its address."""
        if not log.exists():
            return None
        for line in log.read_text().splitlines():
            if '"manager serves"' in line:
                found: dict[str, str] = json.loads(line)
                try:
                    url = json.loads((self.state / "admin.json").read_text())["url"]
                except FileNotFoundError:
                    return None
                return found if url == found["url"] else None
        return None

    async def agent(self, name: str, token: str, **fields: Any) -> SteadyAgent:
        """An enrolled and connected host that comes back after each restart."""
        agent = SteadyAgent(address=self._address, name=name, **fields)
        await agent.enrol(token)
        await agent.connect()
        self.agents.append(agent)
        return agent

    def die_at(self, statement: int) -> None:
        """Kill the process when it is about to execute its *statement*-th from now (1 = next)."""
        self._left.value = statement

    @property
    def died(self) -> bool:
        """Whether the statement of ``die_at`` was reached."""
        return self._left.value == 0

    def disarm(self) -> bool:
        """Let the process live on; True where it is too late for that."""
        if self.died:
            return True
        self._left.value = -1
        return False

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def gone(self) -> None:
        """Wait for the end of a process that was killed, and make sure that it was."""
        assert self._process is not None
        await asyncio.to_thread(self._process.join, 20)
        assert self._process.exitcode == -signal.SIGKILL, self._process.exitcode

    async def stop(self) -> None:
        """End everything, gracefully if it still runs."""
        self._left.value = -1
        for agent in self.agents:
            await agent.close()
        if self._process is not None and self._process.is_alive():
            self._process.terminate()
            await asyncio.to_thread(self._process.join, 30)
            if self._process.is_alive():
                self._process.kill()
