# SPDX-License-Identifier: Apache-2.0
"""A manager process that knows thousands of hosts, and the processes that play them.

The hosts are written into the ledger before the manager starts: enrolment happens once in a
host's life and is not what is measured. They share a key; each has a certificate of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from benchmarks.machine import process_cpu_s
from benchmarks.manager.process import ManagerProcess, manager, started
from fastdl.manager.hosts.ca import Authority, open_authority
from fastdl.manager.ledger import tables
from fastdl.manager.ledger.engine import default_url, open_ledger
from tests.env.fake_agent import make_csr


@dataclass(slots=True)
class Hosts:
    """The processes that play the hosts."""

    processes: list[subprocess.Popen[bytes]]

    def ask(self, word: str) -> list[dict[str, Any]]:
        """Say *word* to all at once; return every process's answer."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n".encode())
            process.stdin.flush()
        return self.answers()

    def answers(self) -> list[dict[str, Any]]:
        """One answer of each process."""
        with ThreadPoolExecutor(len(self.processes)) as pool:
            return list(pool.map(_answer, self.processes))

    def cpu_s(self) -> float:
        """Processor seconds of all."""
        return process_cpu_s([process.pid for process in self.processes])


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process of hosts ended early: see its log")
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextlib.contextmanager
def fleet(
    folder: Path, count: int, *, processes: int = 1, database: str | None = None
) -> Iterator[tuple[ManagerProcess, Hosts, str]]:
    """A manager, *count* hosts that are ready to connect, and their zone's id."""
    state = folder / "state"
    state.mkdir(mode=0o700)
    authority = open_authority(state / "ca")
    key = ec.generate_private_key(ec.SECP256R1())
    zone, ids = str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(count)]
    spec = _write_hosts(database or default_url(state), authority, key, zone, ids)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(manager(folder, database=database))
        host, _, port = served.agents_at.rpartition(":")
        played = Hosts([])
        for number in range(processes):
            mine = spec["hosts"][number::processes]
            path = folder / f"hosts{number}.json"
            path.write_text(json.dumps(spec | {"hosts": mine, "address": [host, int(port)]}))
            words = ("-m", "benchmarks.manager.hosts", str(path))
            played.processes.append(
                stack.enter_context(started(folder, f"hosts{number}", *words, talks=True))
            )
        played.answers()
        yield served, played, zone


def _write_hosts(
    url: str, authority: Authority, key: ec.EllipticCurvePrivateKey, zone: str, ids: list[str]
) -> dict[str, Any]:
    """Store a zone and its hosts; return what the processes that play them must know."""
    csr = make_csr(key)
    _, key_hash = authority.sign_host(csr, "any")
    hosts = [
        {"id": id_, "name": f"kvm{n}", "certificate": authority.sign_host(csr, id_)[0]}
        for n, id_ in enumerate(ids)
    ]
    rows = [
        {
            "id": host["id"],
            "zone": zone,
            "cluster": "c",
            "name": host["name"],
            "state": "Connecting",
            "key_hash": key_hash,
            "changed": 0.0,
            "created": 0.0,
        }
        for host in hosts
    ]

    async def store(tx: Any) -> None:
        values = {"id": zone, "name": "z1", "enabled": True, "created": 0.0}
        await tx.execute(insert(tables.zone).values(values))
        await tx.execute(insert(tables.host), rows)

    async def run() -> None:
        await ledger.write(store)
        await ledger.close()

    ledger = open_ledger(url)
    asyncio.run(run())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {"hosts": hosts, "zone": zone, "ca": authority.pem, "key": pem.decode()}
