# SPDX-License-Identifier: Apache-2.0
"""What an agent needs before it runs: an identity, a configuration, a state folder for itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from fastdl.agent import identity
from fastdl.agent.config import HostConfig
from fastdl.agent.host import Host
from fastdl.agent.identity import HostUnknownError, Identity
from fastdl.agent.journal import Journal
from fastdl.agent.link import LONGEST_PAUSE
from fastdl.agent.pools import configured, hypervisor
from fastdl.agent.service import Agent, Settings
from fastdl.errors import AgentLostError, AgentRefusedError, UsageError
from fastdl.wire.nats.servers import parse_servers
from fastdl.wire.token import parse_token

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def prepared(settings: Settings, *, refused: bool = False) -> AsyncIterator[Agent]:
    """An agent that is enrolled, configured, and alone on its state folder.

    *refused*: the manager did not know the identity in the state folder. Raises UsageError for a
    wrong or missing configuration, before a token is used, and the errors of enrolment.
    """
    name = settings.name or socket.gethostname()
    await asyncio.to_thread(_check_pools, settings)
    config = await asyncio.to_thread(HostConfig.ensure, settings.config_dir)
    nats = settings.nats or config.nats
    if nats is not None:
        parse_servers(nats, option="--nats")
    journal = await asyncio.to_thread(Journal, settings.state / "journal.db")
    try:
        with journal.alone():
            who, spare = await _identity(settings, journal, name, refused=refused)
            host = Host(
                who.host_id,
                settings.config_dir,
                settings.state,
                settings.pools,
                settings.libvirt,
                starts=await asyncio.to_thread(journal.start),
                zone_id=who.zone_id,
            )
            yield Agent(replace(settings, name=name, token=spare, nats=nats), who, host, journal)
    finally:
        await asyncio.to_thread(journal.close)


def _check_pools(settings: Settings) -> None:
    """UsageError if no pool could ever be offered."""
    if settings.pools:
        configured(settings.pools, host_id="", state=settings.state)
    else:
        hypervisor.require_library()


async def _identity(
    settings: Settings, journal: Journal, name: str, *, refused: bool
) -> tuple[Identity, str | None]:
    """The identity in the state folder if it is valid, else the one that the token gives; and the
    token if it may still be needed.

    A token is not used while the identity is valid, nor if it is the one that created it: the same
    command starts the agent every time. Two kinds take precedence, if they are accepted: one made
    for this host, which gives it a new key, and one that names a CA which is not trusted here,
    which is for another manager, or for this one after its CA was replaced.
    """
    try:
        who = await asyncio.to_thread(identity.load, settings.state)
    except UsageError:
        if settings.token is None:
            raise
        who = None
    token = settings.token if _unused(settings.token, who) else None
    if who is None and token is None:
        raise UsageError("this host is not enrolled yet: give --token once")
    if who is not None and token is None:
        who.require_valid()
        return who, None
    assert token is not None
    if who is None or not who.valid():
        return await _enrolled(settings, journal, token, name, former=who), None
    parsed = parse_token(token)
    if not refused and not parsed.for_host and parsed.ca_sha256 in who.authorities():
        return who, token
    try:
        return await _enrol_once(settings, journal, token, name, former=who), None
    except (AgentRefusedError, AgentLostError) as exc:
        log.error("the token is not used: %s", exc)
        return who, None


def _unused(token: str | None, who: Identity | None) -> bool:
    """Whether *token* is not the one that created *who*."""
    return token is not None and (who is None or parse_token(token).id != who.token)


async def _enrolled(
    settings: Settings, journal: Journal, token: str, name: str, *, former: Identity | None
) -> Identity:
    """The identity that *token* gives, as soon as a manager can be reached."""
    pause = 1.0
    while True:
        try:
            return await _enrol_once(settings, journal, token, name, former=former)
        except AgentLostError as exc:
            log.warning("not enrolled yet: %s", exc)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def _enrol_once(
    settings: Settings, journal: Journal, token: str, name: str, *, former: Identity | None
) -> Identity:
    who = await identity.enrol(settings.managers, token, settings.state, name=name)
    log.info("enrolled as host %s", who.host_id)
    if former is None or former.host_id != who.host_id:
        # Nobody will request another host's jobs, and their results would belong to that host.
        await asyncio.to_thread(journal.clear)
    return who


async def serve(settings: Settings, started: Callable[[Agent], None]) -> None:
    """Run an agent until cancelled. *started* is called with it, and with each that replaces it
    when the manager no longer knew it and a token enrolled it again.
    """
    refused = False
    while True:
        async with prepared(settings, refused=refused) as agent:
            started(agent)
            try:
                await agent.run()
            except HostUnknownError as exc:
                log.error("%s", exc)
                refused = True
