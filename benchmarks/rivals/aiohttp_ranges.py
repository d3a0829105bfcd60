# SPDX-License-Identifier: Apache-2.0
"""What a good Python programmer writes in an afternoon: aiohttp ranges, hashlib in order.

Run as a program it downloads; the class below measures it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
import os
import ssl
import sys
from typing import Final

from benchmarks.machine import CHECKOUT
from benchmarks.meter import Step
from benchmarks.rivals.base import Job, Rival, as_it_is, step
from benchmarks.scenarios import MiB, Scenario

_PIECE: Final = 4 * MiB


class AiohttpRanges(Rival):
    name = "aiohttp"
    needs = ()

    def cannot(self, scenario: Scenario) -> str | None:
        return as_it_is(scenario)

    def steps(self, job: Job) -> list[Step]:
        trust = ("--cacert", job.cacert) if job.tls else ()
        digest = ("--sha256",) if job.hashed else ()
        return [
            step(
                sys.executable,
                "-m",
                __name__,
                job.url,
                job.target.path,
                "--size",
                str(job.source_bytes),
                "--connections",
                str(job.connections),
                *trust,
                *digest,
                env={"PYTHONPATH": str(CHECKOUT)},
            )
        ]

    def versions(self) -> dict[str, str]:
        return {"aiohttp": importlib.metadata.version("aiohttp")}


RIVAL = AiohttpRanges()


async def download(args: argparse.Namespace) -> None:
    """Fetch ranges side by side, write them where they belong, hash them in order."""
    import aiohttp  # noqa: PLC0415 - the list of rivals does not need it

    context = ssl.create_default_context(cafile=args.cacert) if args.cacert else None
    digest = hashlib.sha256() if args.sha256 else None
    fd = os.open(args.target, os.O_WRONLY | os.O_CREAT, 0o644)
    starts = iter(range(0, args.size, _PIECE))
    arrived: dict[int, bytes] = {}
    changed = asyncio.Condition()
    hashed = 0

    async def fetch(session: aiohttp.ClientSession) -> None:
        for start in starts:
            last = min(start + _PIECE, args.size) - 1
            async with changed:  # at most two windows of pieces wait for the hash
                await changed.wait_for(lambda s=start: s - hashed < 2 * args.connections * _PIECE)
            headers = {"Range": f"bytes={start}-{last}"}
            async with session.get(args.url, headers=headers, ssl=context or True) as answer:
                answer.raise_for_status()
                body = await answer.read()
            if answer.status != 206 or len(body) != last + 1 - start:
                raise RuntimeError("the server did not answer with the range")
            await asyncio.to_thread(os.pwrite, fd, body, start)
            async with changed:
                arrived[start] = body
                changed.notify_all()

    async def consume() -> None:
        nonlocal hashed
        while hashed < args.size:
            async with changed:
                await changed.wait_for(lambda at=hashed: at in arrived)
                body = arrived.pop(hashed)
            if digest is not None:
                await asyncio.to_thread(digest.update, body)
            async with changed:
                hashed += len(body)
                changed.notify_all()

    connector = aiohttp.TCPConnector(limit=args.connections)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(consume())
        for _ in range(args.connections):
            tasks.create_task(fetch(session))
    os.close(fd)
    if digest is not None:
        print(digest.hexdigest())


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("target")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--cacert")
    parser.add_argument("--sha256", action="store_true")
    asyncio.run(download(parser.parse_args()))


if __name__ == "__main__":
    _main()
