# SPDX-License-Identifier: Apache-2.0
"""Is an event there if, and only if, what it tells has happened?

The ledger stands for the power: after one transaction it goes, as in a crash at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row, insert, select

from fastdl.manager.api.context import ApiContext
from fastdl.manager.app import compose
from fastdl.manager.certificates.expiry import ExpiryWatch
from fastdl.manager.clock import SystemClock
from fastdl.manager.hosts.delivery import Connections
from fastdl.manager.ledger import certs, jobs, tables
from fastdl.manager.ledger.engine import Ledger, Work, default_url, open_ledger
from fastdl.manager.ledger.jobs import NewJob
from fastdl.manager.ledger.text import dumps
from fastdl.manager.ledger.values import Grant
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault
from fastdl.wire import messages as m


class PowerCutError(Exception):
    """The manager is gone."""


class Mortal:
    """A ledger that stores one transaction more."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.left = 1
        self.read = ledger.read

    async def write(self, work: Work[Any]) -> Any:
        """As ``Ledger.write``, once."""
        if not self.left:
            raise PowerCutError
        self.left -= 1
        return await self._ledger.write(work)


@pytest.fixture
async def ledger(database: str | None, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A zone, a host and a template; a download of it runs on the host, as job ``j``."""
    opened = await asyncio.to_thread(open_ledger, database or default_url(tmp_path))

    async def make(tx: Any) -> None:
        t = tables
        await tx.execute(insert(t.zone).values(id="z", name="z", enabled=True, created=0.0))
        await tx.execute(
            insert(t.host).values(
                id="h",
                zone="z",
                cluster="c",
                name="h",
                state="Disconnected",
                key_hash="k",
                changed=0.0,
                created=0.0,
            )
        )
        await tx.execute(
            insert(t.template).values(
                id="t",
                owner="u",
                account="a",
                name="ubuntu",
                display_text="",
                url="https://o/x",
                iso=False,
                format="QCOW2",
                hypervisor="KVM",
                public=False,
                featured=False,
                validators=dumps({"size": 1, "etag": '"v1"'}),
                created=0.0,
            )
        )
        transfer = m.Transfer(sources=("https://o/x",))
        args = m.DownloadArgs(template="t", pool="p", volume="v", transfer=transfer)
        new = NewJob(
            kind=m.Kind.DOWNLOAD, zone="z", template="t", pool="p", single="t:p", args=args
        )
        (job,) = await jobs.submit(tx, [new], now=1.0)
        assert await jobs.grant(tx, [Grant(job=job, fence=0, host="h", slots=())], now=1.0)
        await tx.execute(tables.slot.insert().values(kind="host", key="h", active=1))
        await tx.execute(tables.slot.insert().values(kind="pool", key="p", active=1))

    await opened.write(make)
    yield opened
    await opened.close()


def parts(ledger: Ledger) -> ApiContext:
    """The parts over a ledger that takes one transaction; no host is connected."""
    return compose(
        ledger=Mortal(ledger),
        authority=None,  # type: ignore[arg-type]
        settings=Settings(),
        vault=Vault(bytes(32)),
        clock=SystemClock(),
        delivery=Connections(),
        notices=Notices(),
        name="m",
    )


async def rows(ledger: Ledger, table: Any) -> list[Row[Any]]:
    """Everything in a table."""
    async with ledger.read() as tx:
        return list(await tx.execute(select(table)))


async def ended(ledger: Ledger, **outcome: Any) -> set[str]:
    """End the download; the types of the events that a crash right then leaves."""
    (job,) = await rows(ledger, tables.job)
    result = m.JobResult(job=job.id, fence=1, kind="download", **outcome)
    assert await parts(ledger).dispatcher.ended("h", result)
    return {event.type for event in await rows(ledger, tables.event)}


async def test_a_download_that_failed_has_its_event(ledger: Ledger) -> None:
    """An operator who looks for what failed in the night must find it (A08)."""
    found = await ended(ledger, failure=m.Failure(code=21, message="another digest"))
    assert found == {"TEMPLATE.DIRECT.DOWNLOAD.FAILURE"}
    assert [row.state for row in await rows(ledger, tables.job)] == ["FAILED"]


async def test_a_download_that_succeeded_has_its_events_and_the_drift_it_saw(
    ledger: Ledger,
) -> None:
    """The drift is noted once only: lost then, it would be lost for good (A08)."""
    validators = m.Validators(size=1, etag='"v2"')
    done = m.DownloadDone(install_path="v", virtual_size=1, validators=validators)
    found = await ended(ledger, done=done)
    assert found == {"TEMPLATE.DIRECT.DOWNLOAD.SUCCESS", "TEMPLATE.DIRECT.DOWNLOAD.DRIFT"}
    (template,) = await rows(ledger, tables.template)
    assert "ETag" in template.drift


async def test_a_host_that_is_down_has_given_its_jobs_back(ledger: Ledger) -> None:
    """Down without having lost its jobs, it would hold them for ever (A08, C06)."""
    await parts(ledger).dispatcher.host_lost("h")
    assert [event.type for event in await rows(ledger, tables.event)] == ["HOST.DOWN"]
    assert [host.state for host in await rows(ledger, tables.host)] == ["Down"]
    assert [(job.state, job.host) for job in await rows(ledger, tables.job)] == [("QUEUED", None)]


async def test_a_warning_of_expiry_is_stored_with_the_note_that_it_was_given(
    ledger: Ledger,
) -> None:
    """Each threshold is told once: noted but not told, it would never be (A08)."""
    now = SystemClock().time()
    await ledger.write(
        lambda tx: certs.create(
            tx, zone="z", alias="A", pem="x", sha256="f", not_after=now + 86400 * 5, now=now
        )
    )
    c = parts(ledger)
    await ExpiryWatch(ledger=c.ledger, clock=c.clock, events=c.events).round()
    assert [event.type for event in await rows(ledger, tables.event)] == ["CERTIFICATE.EXPIRY"]
    (cert,) = await rows(ledger, tables.cert)
    assert cert.warned == 8
