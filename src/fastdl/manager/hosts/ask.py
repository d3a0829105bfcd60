# SPDX-License-Identifier: Apache-2.0
"""Asking one connected host a question and waiting for its answer (probes and checks)."""

from __future__ import annotations

from typing import Final

from fastdl.errors import AgentLostError
from fastdl.manager.hosts.fleet import ConnectedHost
from fastdl.manager.ledger import jobs
from fastdl.manager.ledger.jobs import LIVE, NewJob
from fastdl.manager.ledger.text import loads
from fastdl.manager.services import Services
from fastdl.wire import codec
from fastdl.wire import messages as m

ANSWER_S: Final = 60.0


async def ask(
    services: Services, host: ConnectedHost, kind: m.Kind, args: m.Args, *,
    timeout_s: float = ANSWER_S,
) -> m.Done:  # fmt: skip
    """Return *host*'s answer.

    Raises the error that the host reports, or AgentLostError when it does not answer in time.
    """
    now = services.clock.time()
    new = NewJob(kind=kind, zone=host.zone, host=host.id, args=args, rank=0)
    (job,) = await services.ledger.write(lambda tx: jobs.submit(tx, [new], now=now))
    services.fabric.post(host.id)

    async def check() -> tuple[str | None, str | None] | None:
        async with services.ledger.read() as tx:
            row = await jobs.get(tx, job)
        return None if row is None or row.state in LIVE else (row.result, row.failure)

    answer = await services.notices.until(f"job:{job}", check, timeout_s=timeout_s)
    if answer is None:
        ended = services.clock.time()
        await services.ledger.write(lambda tx: jobs.cancel(tx, job, now=ended))
        services.fabric.post(host.id)
        raise AgentLostError(f"host {host.name} did not answer within {timeout_s:g} s")
    result, failure = answer
    if result is not None:
        return codec.done_from_json(kind, result)
    failed = loads(failure) if failure else {"code": 130, "message": "it was cancelled"}
    raise codec.error_of(codec.from_plain(m.Failure, failed))
