# SPDX-License-Identifier: Apache-2.0
"""An agent process, an origin for it, and what it is given to do."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from fastdl.agent.properties import load
from fastdl.trust.keystore import Keystore, Passphrase
from fastdl.wire import messages as m
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.wire_manager import WireManager

CONTENT = pseudo_random(11, 24 * 1024 * 1024)
SMALL = CONTENT[: 1 << 20]
DIGEST = "{SHA-256}" + hashlib.sha256(CONTENT).hexdigest()
LOOPBACK = ("127.0.0.0/8",)


class Process:
    """An agent process on a state, configuration and pool folder of its own."""

    def __init__(self, folder: Path, manager: WireManager) -> None:
        self.folder = folder
        self.state, self.config = folder / "state", folder / "config"
        self.pool = folder / "pool"
        self.pool.mkdir()
        self.manager = manager
        self.token = manager.token()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "agent.log"

    def start(self, *more: str) -> None:
        """Start it, with the same words each time."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fastdl", "agent"),
                    *("--manager", self.manager.url, "--token", self.token),
                    *("--state", str(self.state), "--config-dir", str(self.config)),
                    *("--pool", f"images={self.pool}", *more),
                ],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = 30) -> int:
        """End it by a signal; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout)

    @property
    def keystore(self) -> Keystore:
        """The keystore that the agent made."""
        passphrase = load(self.config / "agent.properties")["keystore.passphrase"]
        return Keystore(self.config / "cloud.jks", Passphrase(passphrase))

    @property
    def pool_id(self) -> str:
        """The id of its pool, as its greeting says it."""
        hello = self.manager.wait(lambda: next(iter(self.manager.all(m.Hello)), None))
        return hello.inventory.pools[0].id

    def visible(self) -> list[str]:
        """The finished files of its pool."""
        return sorted(p.name for p in self.pool.iterdir() if p.name[0] != ".")


TRANSFER = {"checksum", "headers", "limit_rate", "max_connections"}
"""What a test may change of how a download is made."""


def download(agent: Process, url: str, *, fence: int = 1, **changes: object) -> m.Command:
    transfer = m.Transfer(
        sources=(url,),
        allowed_cidrs=LOOPBACK,
        connect_timeout=5.0,
        stall_timeout=20.0,
        **{k: v for k, v in changes.items() if k in TRANSFER},  # type: ignore[arg-type]
    )
    args = m.DownloadArgs(
        template="t1",
        pool=str(changes.get("pool") or agent.pool_id),
        volume=str(changes.get("volume") or uuid.uuid4()),
        format="RAW",
        transfer=transfer,
    )
    job = str(changes.get("job") or uuid.uuid4())
    return m.Command(job=job, kind=m.Kind.DOWNLOAD, fence=fence, args=args)


def slowly(origin: FaultOrigin, *, rate: float = 4e6) -> None:
    """Serve the large template slowly enough to do something in between."""
    origin.resources["/x.raw"].rules.append(Rule(when=When(), rate=rate))


def done_of(result: m.JobResult) -> m.DownloadDone:
    assert isinstance(result.done, m.DownloadDone), result.failure
    return result.done


@contextlib.contextmanager
def placed(folder: Path, manager: WireManager) -> Iterator[Process]:
    """An agent in *folder*, which is made; not started. It does not outlive the block."""
    folder.mkdir()
    one = Process(folder, manager)
    try:
        yield one
    finally:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


@contextlib.contextmanager
def running(folder: Path, manager: WireManager) -> Iterator[Process]:
    """A started agent in *folder*, which is made. It does not outlive the block."""
    with placed(folder, manager) as one:
        one.start()
        yield one


def templates() -> FaultOrigin:
    """An origin with a template of 24 MiB and one of 1 MiB."""
    return FaultOrigin({"/x.raw": Resource.of(CONTENT), "/s.raw": Resource.of(SMALL)})
