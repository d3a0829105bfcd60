# SPDX-License-Identifier: Apache-2.0
"""Who may use a ledger, and does the next manager take nothing away?"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from fastdl.errors import FastdlError
from fastdl.manager.ledger.engine import LEDGER_NUMBER, driver_url
from tests.env import postgresql
from tests.env.fake_agent import FakeAgent
from tests.env.process import FASTDL, ManagerProcess, eventually


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    """A server of this test alone: it may be stopped."""
    with postgresql.mortal_server() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is in no manager's state folder."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    made: postgresql.Server = request.getfixturevalue("server")
    return postgresql.fresh_database(made.url, "fastdl")


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[list[ManagerProcess]]:
    """Ends what the test put in."""
    made: list[ManagerProcess] = []
    yield made
    for process in made:
        if process.alive:
            await process.end(signal.SIGKILL)


async def test_a_second_manager_is_refused_with_one_sentence(
    tmp_path: Path, managers: list[ManagerProcess]
) -> None:
    """On SQLite. It changes nothing: no keys, no CA that anybody would meet."""
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    first = ManagerProcess(tmp_path, ledger, name="one")
    second = ManagerProcess(tmp_path, ledger, name="two")
    managers += [first, second]
    api = await first.start()
    await second.launch()
    assert await second.ended() == 2
    log = second.log()
    assert log.count("\n") == 1, log
    assert "has one manager at a time" in log
    assert not (second.state / "admin.json").exists()
    assert (await api("listUsers"))["count"] == 1


async def test_managers_that_cannot_share_a_ledger_are_refused(
    tmp_path: Path, server: postgresql.Server, managers: list[ManagerProcess]
) -> None:
    """On PostgreSQL: the copy of a state folder, and one besides a manager of an older version."""
    url = postgresql.fresh_database(server.url, "fastdl")
    first = ManagerProcess(tmp_path, url, name="one")
    second = ManagerProcess(tmp_path, url, name="two")
    managers += [first, second]
    await first.start()
    shutil.copytree(first.state, second.state)
    await second.launch()
    assert await second.ended() == 2
    log = second.log()
    assert log.count("\n") == 1, log
    assert "its state folder was copied" in log
    assert f"fastdl manager on {socket.gethostname()}, process" in log
    assert await first.end(signal.SIGTERM) == 0

    engine = create_async_engine(driver_url(url), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        number = await connection.scalar(LEDGER_NUMBER)
        await connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
        await second.launch()
        assert await second.ended() == 2
        assert "a manager of an older version uses the database" in second.log()
    await engine.dispose()


async def test_the_next_manager_comes_in_at_once(
    tmp_path: Path, ledger: str, managers: list[ManagerProcess]
) -> None:
    """After a kill as after a stop; and it is no reason to make new keys."""
    process = ManagerProcess(tmp_path, ledger)
    managers.append(process)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        api = await process.start()
        assert (await api("listUsers"))["user"][0]["username"] == "admin"
        await process.end(number)
    known = json.loads((process.state / "admin.json").read_text())
    (process.state / "admin.json").unlink()
    api = await process.start()
    again = json.loads((process.state / "admin.json").read_text())
    assert {k: again[k] for k in ("apikey", "secretkey")} == {
        k: known[k] for k in ("apikey", "secretkey")
    }
    assert "password" not in again
    assert (process.state / "admin.json").stat().st_mode & 0o077 == 0
    assert (await api("listUsers"))["count"] == 1


async def test_hosts_are_not_locked_out_by_another_ca(
    tmp_path: Path, ledger: str, managers: list[ManagerProcess]
) -> None:
    """Another state folder on the same ledger: its CA would be a stranger to every host."""
    first = ManagerProcess(tmp_path, ledger, name="one")
    second = ManagerProcess(tmp_path, ledger, name="two")
    managers += [first, second]
    api = await first.start()
    zone = (await api("createZone", name="z1"))["zone"]["id"]
    host, _, port = first.agents.rpartition(":")
    agent = FakeAgent(address=(host, int(port)))
    await agent.enrol((await api("createHostToken", zoneid=zone))["token"])
    keys = json.loads((first.state / "admin.json").read_text())
    assert await first.end(signal.SIGTERM) == 0
    await second.launch()
    assert await second.ended() == 2
    assert "copy the file secret.key there" in second.log()
    assert "Traceback" not in second.log()
    shutil.rmtree(second.state / "ca", ignore_errors=True)
    shutil.copy(first.state / "secret.key", second.state / "secret.key")
    await second.start()
    assert json.loads((second.state / "admin.json").read_text())["apikey"] == keys["apikey"]
    assert (second.state / "ca/ca.pem").read_text() == (first.state / "ca/ca.pem").read_text()
    assert await second.end(signal.SIGTERM) == 0
    shutil.rmtree(second.state / "ca")
    for words in (("--accept-new-ca",), ()):
        await second.start(*words)
        assert await second.end(signal.SIGTERM) == 0


async def test_the_claim_outlives_the_server(
    tmp_path: Path, server: postgresql.Server, managers: list[ManagerProcess]
) -> None:
    """After a restart of PostgreSQL it is made again; who took the name meanwhile keeps it."""
    url = postgresql.fresh_database(server.url, "fastdl")
    first = ManagerProcess(tmp_path, url, name="one")
    second = ManagerProcess(tmp_path, url, name="two")
    managers += [first, second]
    api = await first.start()
    shutil.copytree(first.state, second.state)
    await asyncio.to_thread(server.stop)
    with pytest.raises(FastdlError):
        await api("listZones")
    await asyncio.to_thread(server.start)
    await eventually(lambda: said(first, "was renewed"))
    await second.launch()
    assert await second.ended() == 2

    # Frozen while its claim ends, as a manager on a machine that lost its network.
    assert first._running is not None
    first._running.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await second.start()
    first._running.send_signal(signal.SIGCONT)
    assert await first.ended() == 2
    assert "the claim on the ledger is lost" in first.log()
    assert second.alive


async def said(process: ManagerProcess, text: str) -> bool:
    """Whether the manager's log has *text*."""
    return text in process.log()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://postgres@127.0.0.1:1/x", "cannot be opened"),
        ("not a url", "--database is a URL"),
        ("mysql://u@h/d", "mysql is not supported"),
        ("sqlite://", "needs a file"),
        ("sqlite:////no/such/folder/x.db", "cannot be used"),
    ],
)
async def test_a_database_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, managers: list[ManagerProcess], url: str, text: str
) -> None:
    """Whatever is wrong with it."""
    process = ManagerProcess(tmp_path, url)
    managers.append(process)
    await process.launch()
    assert await process.ended() == 2
    assert text in process.log()
    assert process.log().count("\n") == 1, process.log()


async def test_a_database_that_is_not_there_is_named(
    tmp_path: Path, server: postgresql.Server, managers: list[ManagerProcess]
) -> None:
    """In the server's words."""
    process = ManagerProcess(tmp_path, server.url.removesuffix("postgres") + "nowhere")
    managers.append(process)
    await process.launch()
    assert await process.ended() == 2
    assert 'database "nowhere" does not exist' in process.log()
    assert "class" not in process.log()


async def test_a_missing_library_is_one_sentence(tmp_path: Path) -> None:
    """PostgreSQL needs an extra."""
    main = FASTDL[-1].replace("from ", "import sys; sys.modules['asyncpg'] = None; from ", 1)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        main,
        "manager",
        "--state",
        str(tmp_path / "state"),
        "--database",
        "postgresql://u@127.0.0.1/d",
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"needs the Python package asyncpg" in err
    assert err.count(b"\n") == 1


async def test_taken_ports_are_one_sentence(tmp_path: Path, managers: list[ManagerProcess]) -> None:
    """The API's and the agents'."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "{}:{}".format(*taken.getsockname())
        for option in ("--listen", "--agent-listen"):
            process = ManagerProcess(tmp_path, name=option.strip("-"))
            managers.append(process)
            await process.launch(option, where)
            assert await process.ended() == 2
            (line,) = [x for x in process.log().splitlines() if option in x]
            assert where in line
            assert "Traceback" not in process.log()
