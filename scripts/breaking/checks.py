# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever was broken, by what hosts, pools and origins show; never by the ledger,
which is asked only where a copy lies."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from fastdl.agent.properties import load
from fastdl.trust.keystore import Keystore, Passphrase
from scripts.breaking.rig import Rig
from tests.env.process import AgentProcess

BYTES_MOST = 1.1
_STARTED = re.compile(r"job started job=(\S+) kind=download .*?\bpool=(\S+) template=(\S+)")
_ENDED = re.compile(r"job ended job=(\S+) kind=download code=0 fetched=([1-9]\d*)")
"""One that found the copy there has fetched nothing."""


async def violations(rig: Rig, templates: list[str], aliases: dict[str, bool]) -> list[str]:
    """What is wrong after a round of *templates*; *aliases*: certificate → whether it is wanted."""
    pools = await _pools(rig)
    found = [*limits(rig), *fetched(rig, len(templates) * len(set(pools.values())))]
    found += [*jobs(rig, pools), *rig.noted]
    rig.noted.clear()
    found += [wrong for agent in rig.agents for wrong in keystore(agent, aliases)]
    found += await _copies(rig, templates, len(set(pools.values())))
    return found


async def _pools(rig: Rig) -> dict[str, str]:
    """Name of every pool → its id."""
    rows = (await rig.api("listStoragePools")).get("storagepool", [])
    return {row["name"]: row["id"] for row in rows}


def limits(rig: Rig) -> Iterator[str]:
    """Yield the origins that served too many downloads at once."""
    for number, origin in enumerate(rig.origins):
        if origin.most > rig.load.bulk:
            yield (
                f"origin {number} served {origin.most} downloads at once, {rig.load.bulk} are "
                f"allowed: {origin.busiest}"
            )


def fetched(rig: Rig, copies: int) -> Iterator[str]:
    """Yield whether more was fetched than *copies* of a template may need."""
    sent, needed = sum(origin.sent for origin in rig.origins), copies * rig.load.size
    if sent > BYTES_MOST * needed:
        yield f"{sent / needed:.2f} times the bytes that were needed were fetched"


def jobs(rig: Rig, pools: dict[str, str]) -> Iterator[str]:
    """Yield, by the agents' logs, commands of other hosts and copies that were made twice."""
    made: Counter[tuple[str, str]] = Counter()
    for agent in rig.agents:
        own = {pools[f"{agent.name}-pool"]}
        if agent in rig.agents[:2]:
            own.add(pools["shared"])
        log, copies = agent.log(), dict[str, tuple[str, str]]()
        for job, pool, template in _STARTED.findall(log):
            copies[job] = (template, pool)
            if pool not in own:
                yield f"job {job} of pool {pool}, started by {agent.name}, is of another host"
        made.update(copies[job] for job, _ in _ENDED.findall(log) if job in copies)
    for (template, pool), times in made.items():
        if times > 1:
            yield f"template {template} was brought to pool {pool} {times} times"


def keystore(agent: AgentProcess, aliases: dict[str, bool]) -> Iterator[str]:
    """Yield what is wrong in the keystore of *agent*."""
    folder = agent.folder / "conf"
    passphrase = load(folder / "agent.properties")["keystore.passphrase"]
    there = {item.alias for item in Keystore(folder / "cloud.jks", Passphrase(passphrase)).items()}
    for alias, wanted in aliases.items():
        if any(alias.lower() in one.lower() for one in there) != wanted:
            yield f"{agent.name}: certificate {alias} {'is missing' if wanted else 'was revoked'}"


async def _copies(rig: Rig, templates: list[str], pools: int) -> list[str]:
    found = []
    folders = [*(agent.pool for agent in rig.agents), rig.folder / "shared"]
    for template in templates:
        rows = (await rig.api("listTemplateCopies", templateid=template)).get("templatecopy", [])
        states = sorted(row["state"] for row in rows)
        if states != ["Ready"] * pools:
            found.append(f"copies of {template} are {', '.join(states)}")
        for row in rows:
            files = [f for folder in folders if (f := folder / row["installpath"]).exists()]
            if [f.read_bytes() == rig.contents[template] for f in files] != [True]:
                found.append(f"a copy of {template} is not what it should be: {files}")
    return found
