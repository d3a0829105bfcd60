# SPDX-License-Identifier: Apache-2.0
"""``fastdl manager`` and ``fastdl agent`` as processes of their own, as an operator starts them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.env.manager import Client

FASTDL = [sys.executable, "-c", "from fastdl.cli.main import main; raise SystemExit(main())"]


async def eventually(check: Callable[[], Awaitable[Any]], *, within: float = 60) -> Any:
    """Wait for *check* to return something true."""
    async with asyncio.timeout(within):
        while not (answer := await check()):
            await asyncio.sleep(0.05)
    return answer


class _Process:
    """A command that is started as often as needed, and what all its runs wrote.

    *program*: the fastdl that is started.
    """

    program: Sequence[str] = FASTDL

    def __init__(self, log: Path) -> None:
        self._log = log
        self._running: asyncio.subprocess.Process | None = None
        self._starts = 0

    async def _start(self, *words: str) -> Path:
        """Start it; return the log of this run."""
        self._starts += 1
        log = self._log.with_name(f"{self._log.name}-{self._starts}.log")
        with log.open("wb") as out:
            self._running = await asyncio.create_subprocess_exec(
                *self.program, *words, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
            )
        return log

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._running is not None and self._running.returncode is None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._running is not None
        return self._running.pid

    def log(self) -> str:
        """What all its runs wrote."""
        found = sorted(self._log.parent.glob(f"{self._log.name}-*.log"))
        return "".join(path.read_text() for path in found)

    async def ended(self, *, within: float = 60) -> int:
        """Wait for it to end by itself; return the exit code."""
        assert self._running is not None
        return await asyncio.wait_for(self._running.wait(), within)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        assert self._running is not None
        if self.alive:
            self._running.send_signal(number)
        return await self.ended(within=30)


class ManagerProcess(_Process):
    """``fastdl manager`` on one state folder and database (None = SQLite in the folder)."""

    def __init__(self, folder: Path, database: str | None = None, *, name: str = "state") -> None:
        super().__init__(folder / f"manager-{name}")
        self.state = folder / name
        self._database = ("--database", database) if database is not None else ()
        self.listen = self.agents = "127.0.0.1:0"

    async def launch(self, *more: str) -> Path:
        """Start it without waiting; return the log."""
        return await self._start(
            "manager",
            "--state",
            str(self.state),
            *self._database,
            "--listen",
            self.listen,
            "--agent-listen",
            self.agents,
            *more,
        )

    async def start(self, *more: str) -> Client:
        """Start it; return a client once it serves."""
        log = await self.launch(*more)

        async def serving() -> dict[str, str] | None:
            assert self.alive, log.read_text()
            lines = log.read_text().splitlines()
            if not any(line.startswith("fastdl manager serves") for line in lines):
                return None
            return next(json.loads(line) for line in lines if '"manager serves"' in line)

        self.agents = (await eventually(serving))["agents"]
        return Client(json.loads((self.state / "admin.json").read_text()))

    async def command(self, *more: str) -> str:
        """Run ``fastdl manager`` with an option that does something and ends; what it wrote."""
        words = [*self.program, "manager", "--state", str(self.state), *self._database, *more]
        made = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await made.communicate()
        assert made.returncode == 0, said.decode()
        return said.decode()


class AgentProcess(_Process):
    """``fastdl agent`` with a state, a configuration and a pool folder of its own in *folder*."""

    def __init__(self, folder: Path, name: str, manager: ManagerProcess) -> None:
        super().__init__(folder / name)
        self.name = name
        self.folder = folder / name
        self.state = self.folder / "state"
        self.pool = self.folder / "pool"
        self.pool.mkdir(parents=True)
        self.manager = manager
        self.through: tuple[str, ...] = ()
        """The addresses at which it finds managers; none = the manager's own."""

    async def start(self, token: str | None = None, *more: str, pools: bool = True) -> None:
        """Start it, with its pool folder unless *pools* is false."""
        found = self.through or (self.manager.agents,)
        words = [word for one in found for word in ("--manager", f"https://{one}")]
        words += ["--state", str(self.state)]
        words += ["--config-dir", str(self.folder / "conf"), "--name", self.name]
        words += ["--pool", f"{self.name}-pool={self.pool}"] if pools else []
        words += ["--token", token] if token is not None else []
        await self._start("agent", *words, *more)
