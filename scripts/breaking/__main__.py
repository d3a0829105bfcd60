# SPDX-License-Identifier: Apache-2.0
"""Breaks three managers, their database and their hosts, and checks what the hosts did.

In each round every pool is to get new templates, certificates come and go, and some faults, drawn
from the seed, happen one after the other. When all is mended every job must end, and what agents,
pools, keystores and origins show must be right: downloads at once per origin never above the limit;
one copy of each template in each pool; no host acted on another's command; revoked certificates are
gone; at most 1.1 times the bytes needed were fetched. Exits with 1 where something was not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from fastdl.lab.certs import self_signed
from scripts.breaking.checks import keystore, violations
from scripts.breaking.faults import (
    BETWEEN_MANAGERS,
    FAULTS,
    HOSTS_ON_NATS,
    LOSSY,
    WITH_NATS,
    Fault,
)
from scripts.breaking.rig import FEW, MANY, Rig, rig

ROUND_FAULTS = 2
CROWD = 16
"""From so many hosts on they download small images."""
FINISH_S = 300.0
"""For all jobs, once everything is mended."""


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - BEGAN:6.1f}  {text}", flush=True)


BEGAN = time.monotonic()


async def prepare(found: Rig, templates: list[str]) -> list[str]:
    """Ask for *templates* in every pool; the async jobs."""
    answers = [
        await found.api("prepareTemplate", zoneid=found.zone, templateid=template)
        for template in templates
    ]
    return [answer["jobid"] for answer in answers]


async def finished(found: Rig, templates: list[str], jobs: list[str], *, lossy: bool) -> list[str]:
    """Wait for the end of all *jobs*; what is wrong with it. *lossy*: the ledger may have forgotten
    some of them: what is not there is asked for again."""
    ends = time.monotonic() + FINISH_S
    waiting = set(jobs)
    wrong = []
    while waiting and time.monotonic() < ends:
        for job in sorted(waiting):
            try:
                state = await found.cluster.api("queryAsyncJobResult", jobid=job)
            except Exception as exc:  # noqa: BLE001 - forgotten by the ledger, or nobody answers
                if not lossy:
                    await asyncio.sleep(1)
                    continue
                state = {"jobstatus": 1, "forgotten": str(exc)}
            if state["jobstatus"]:
                waiting.discard(job)
            if state["jobstatus"] not in (0, 1):
                wrong.append(f"a job failed: {state.get('jobresult')}")
        await asyncio.sleep(1)
    if waiting:
        return [*wrong, f"{len(waiting)} jobs have not ended {FINISH_S:.0f} s after the last fault"]
    if lossy:
        again = await prepare(found, templates)
        return wrong + await finished(found, templates, again, lossy=False)
    return wrong


async def certificate(found: Rig, name: str, *, wanted: bool) -> None:
    """Upload a certificate for all hosts, or revoke it."""
    which = {"name": name, "hypervisor": "KVM", "zoneid": found.zone}
    if wanted:
        command = "uploadTemplateDirectDownloadCertificate"
        await found.api(command, certificate=self_signed(), **which)
    else:
        await found.api("revokeTemplateDirectDownloadCertificate", **which)


async def settled(found: Rig, aliases: dict[str, bool]) -> None:
    """Wait, within bounds, for the keystores of all hosts; ``violations`` says what is wrong."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        if not any(wrong for agent in found.agents for wrong in keystore(agent, aliases)):
            return
        await asyncio.sleep(1)


async def round_of(found: Rig, number: int, names: list[str], draw: random.Random) -> list[str]:
    """One round with the faults *names*; the violations."""
    templates = await found.templates(found.load.templates, number)
    kept, revoked = f"kept{number}", f"gone{number}"
    await certificate(found, kept, wanted=True)
    await certificate(found, revoked, wanted=True)
    found.wanted = len(templates) * (len(found.agents) + 1)
    for origin in found.origins:
        origin.begin()
    jobs = await prepare(found, templates)
    await asyncio.sleep(3 + 3 * draw.random())
    for n, name in enumerate(names):
        say(await (FAULTS | WITH_NATS | BETWEEN_MANAGERS | HOSTS_ON_NATS)[name](found, draw))
        if not n:
            with contextlib.suppress(Exception):
                await certificate(found, revoked, wanted=False)
    lossy = bool(LOSSY & set(names))
    wrong = await finished(found, templates, jobs, lossy=lossy)
    await certificate(found, revoked, wanted=False)  # again, in case the first was lost
    aliases = {revoked: False} if lossy else {kept: True, revoked: False}
    await settled(found, aliases)
    wrong += await violations(found, templates, aliases)
    for template in templates:
        await found.api("deleteTemplate", id=template)
    return wrong


def possible(args: argparse.Namespace) -> dict[str, Fault]:
    """The faults that can happen to what *args* ask for."""
    found = dict(FAULTS)
    if args.nats or args.hosts_on_nats:
        found |= WITH_NATS
    if args.nats:
        found |= BETWEEN_MANAGERS
    if args.hosts_on_nats:
        found |= HOSTS_ON_NATS
    return found


async def run(args: argparse.Namespace, folder: Path) -> int:
    """All rounds; the exit code."""
    draw = random.Random(args.seed)
    names = list(possible(args))
    names = args.faults.split(",") if args.faults else names
    left: list[str] = []
    bad = number = 0
    load = FEW if args.agents < CROWD else MANY
    async with rig(
        folder,
        agents=args.agents,
        apart=True,
        with_nats=args.nats,
        hosts_on_nats=args.hosts_on_nats,
        callout=args.nats_callout,
        load=load,
    ) as found:
        say(f"three managers, {args.agents} hosts are up; seed {args.seed}")
        ends = time.monotonic() + 60 * args.minutes
        while not number or time.monotonic() < ends:
            number += 1
            chosen = []
            while len(chosen) < min(ROUND_FAULTS, len(names)):
                left = left or draw.sample(names, len(names))
                chosen.append(left.pop())
            say(f"round {number}: {', '.join(chosen)}")
            began = time.monotonic()
            wrong = await round_of(found, number, chosen, random.Random(draw.random()))
            for text in wrong:
                say(f"VIOLATION {text}")
            bad += len(wrong)
            needed = load.templates * (len(found.agents) + 1)
            sent = sum(origin.sent for origin in found.origins) / (needed * load.size)
            most = max(origin.most for origin in found.origins)
            say(
                f"{needed} copies in {time.monotonic() - began:.0f} s, at most {most} at once from "
                f"an origin, {sent:.3f} of the bytes needed"
            )
        crashed = [m.state.name for m in found.cluster.managers if "Traceback" in m.log()]
        for name in crashed:
            say(f"VIOLATION manager {name} had an error of its own: see its log")
        bad += len(crashed)
    say(f"{number} rounds, {bad} violations")
    return int(bool(bad))


async def stand(args: argparse.Namespace, folder: Path) -> int:
    """Let a person look at it until Ctrl-C."""
    async with rig(
        folder,
        agents=args.agents,
        apart=False,
        with_nats=args.nats,
        hosts_on_nats=args.hosts_on_nats,
        callout=args.nats_callout,
    ) as found:
        print(
            f"the balancer: API {found.cluster.api.credentials['url']}, "
            f"agents {found.cluster.agents}"
        )
        for manager in found.cluster.managers:
            print(f"manager {manager.state.name}: page http://{manager.listen}/, pid {manager.pid}")
        print(f"PostgreSQL: {found.cluster.url}")
        for server in found.cluster.nats:
            print(f"NATS: {server.url}")
        for server in found.cluster.hosts_nats:
            print(f"NATS to hosts: tls://{server.address}")
        program = Path(sys.executable).with_name("fastdl")
        print(
            f"try: {program} host list --credentials {found.cluster.managers[0].state}/admin.json"
        )
        print("Ctrl-C ends all of it", flush=True)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    return 0


def main() -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="draws the faults (default: 1)")
    parser.add_argument("--minutes", type=float, default=5.0, help="no new round after that")
    parser.add_argument("--agents", type=int, default=6, help="how many hosts (default: 6)")
    parser.add_argument("--faults", help=f"of {','.join(FAULTS)} (default: all)")
    parser.add_argument("--nats", action="store_true", help="three NATS servers between managers")
    parser.add_argument("--hosts-on-nats", action="store_true", help="three to hosts")
    parser.add_argument(
        "--nats-callout",
        action="store_true",
        help="three to hosts, which ask managers who connects",
    )
    parser.add_argument("--keep", action="store_true", help="break nothing: to look at")
    parser.add_argument("--logs", type=Path, help="folder in which everything stays afterwards")
    args = parser.parse_args()
    args.hosts_on_nats |= args.nats_callout
    allowed = set(possible(args))
    if args.faults and not set(args.faults.split(",")) <= allowed:
        parser.error(f"--faults: of {', '.join(sorted(allowed))}")
    if not args.keep and os.geteuid():
        parser.error("network namespaces need root")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = args.logs or Path(tempfile.mkdtemp(prefix="fastdl-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return asyncio.run((stand if args.keep else run)(args, folder))
    except KeyboardInterrupt:
        return 130
    finally:
        if not args.logs:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
