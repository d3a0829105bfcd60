# SPDX-License-Identifier: Apache-2.0
"""What must hold whatever was broken, by what hosts, pools and origins show; never by the ledger,
which is asked only where a copy lies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from fastdl.agent.properties import load
from fastdl.trust.keystore import Keystore, Passphrase
from scripts.breaking.rig import LIMIT, SIZE, Rig
from tests.env.process import AgentProcess

BYTES_MOST = 1.1
_STARTED = re.compile(r"job started .*?\bjob=(\S+).*?\bkind=download\b.*?\bpool=(\S+)")
_ENDED = re.compile(r"job ended .*?\bjob=(\S+).*?\bkind=download\b.*?\bcode=0\b")


async def violations(rig: Rig, templates: list[str], aliases: dict[str, bool]) -> list[str]:
    """What is wrong after a round of *templates*; *aliases*: certificate → whether it is wanted."""
    pools = await _pools(rig)
    found = [*_limits(rig), *_bytes(rig, len(templates) * len(set(pools.values())))]
    found += _jobs(rig, pools)
    found += [wrong for agent in rig.agents for wrong in keystore(agent, aliases)]
    found += await _copies(rig, templates, len(set(pools.values())))
    return found


async def _pools(rig: Rig) -> dict[str, str]:
    """Name of every pool → its id."""
    rows = (await rig.api("listStoragePools")).get("storagepool", [])
    return {row["name"]: row["id"] for row in rows}


def _limits(rig: Rig) -> Iterator[str]:
    for number, origin in enumerate(rig.origins):
        if origin.most > LIMIT:
            yield f"origin {number} served {origin.most} downloads at once, {LIMIT} are allowed"


def _bytes(rig: Rig, copies: int) -> Iterator[str]:
    sent, needed = sum(origin.sent for origin in rig.origins), copies * SIZE
    if sent > BYTES_MOST * needed:
        yield f"{sent / needed:.2f} times the bytes that were needed were fetched"


def _jobs(rig: Rig, pools: dict[str, str]) -> Iterator[str]:
    """By the agents' logs: no command of another host, no job done by two."""
    done = defaultdict(set)
    for agent in rig.agents:
        own = {pools[f"{agent.name}-pool"]}
        if agent in rig.agents[:2]:
            own.add(pools["shared"])
        log = agent.log()
        for job, pool in _STARTED.findall(log):
            if pool not in own:
                yield f"{agent.name} was given job {job} of pool {pool}, which it does not have"
        for job in _ENDED.findall(log):
            done[job].add(agent.name)
    for job, names in done.items():
        if len(names) > 1:
            yield f"job {job} was done by {' and '.join(sorted(names))}"


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
