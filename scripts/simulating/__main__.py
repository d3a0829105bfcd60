# SPDX-License-Identifier: Apache-2.0
"""Run whole zones in virtual time, each drawn from a seed, and check what must always hold.

``scripts/simulate --seeds N --hosts H --seed S`` runs the seeds S, S+1, … Each draws a zone (hosts,
local and shared pools, templates, origins, limits) and a history (downloads asked for and
cancelled, templates deleted, limits changed while downloads run; certificates uploaded and
revoked, in the zone or on one host; hosts that die, freeze, are cut off (some, or all at once),
are disabled or put into maintenance, and come back with their journal; results lost, late and
twice, messages cut short; the manager killed and started again). Hosts are simulated, with the
agent's own decisions; the ledger, the dispatcher, the certificate loops and the server of hosts
are the manager's.

Checked by the hosts' own account: no more downloads at once than an origin, a host and a pool
may have; each copy completed once; nobody acts on another's command; every job ends, under the
fence of who did it; a host in maintenance does nothing; in the end every template is where it
should be, and every keystore holds what was uploaded and nothing that was revoked.

A violation prints the seed and the shortest history found; the same command with --seed and
--seeds 1 repeats it. Exit code 1 then.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context

from scripts.simulating.run import Outcome, Simulator, batch
from scripts.simulating.shrink import shortest

BATCH = 25
"""Seeds of one task of a process."""
SAID_S = 30.0
"""How often a long run says how far it is."""
FOUND_MAX = 5
"""Violations that are shown: one mistake breaks many seeds."""


def outcomes(args: argparse.Namespace) -> Iterator[Outcome]:
    """Run all seeds; with PostgreSQL in one process, which has the database to itself."""
    seeds = range(args.seed, args.seed + args.seeds)
    each = max(1, min(BATCH, -(-args.seeds // args.processes)))
    parts = [seeds[start : start + each] for start in range(0, len(seeds), each)]
    if args.processes == 1 or args.database or len(parts) == 1:
        with Simulator(args.database) as simulator:
            yield from (simulator.run(seed, args.hosts) for seed in seeds)
        return
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as processes:
        for found in processes.map(batch, parts, repeat(args.hosts)):
            yield from found


def shown(found: Outcome, args: argparse.Namespace) -> str:
    """Return the shortest history that violates the same seed's invariants, as text."""
    with Simulator(args.database) as simulator:
        best = shortest(
            found,
            lambda steps: simulator.run(found.seed, args.hosts, steps=steps),
            seconds=args.shrink,
        )
    zone = best.zone
    lines = [
        f"seed {found.seed}: {best.violations[0]}",
        f"  {len(zone.hosts)} hosts, {len(zone.pools)} pools ({len(zone.shared)} shared), limits "
        + ", ".join(f"{most} per {kind}" for kind, most in zone.limits.items()),
        f"  {len(best.steps)} of {len(found.steps)} steps suffice:",
        *(f"    {step}" for step in best.steps),
        *(f"  also {what}" for what in best.violations[1:5]),
    ]
    return "\n".join(lines)


def main() -> int:
    """Simulate; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=200, metavar="N", help="how many (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first (%(default)s)")
    parser.add_argument(
        "--hosts", type=int, default=6, metavar="H", help="at most, in a zone (%(default)s)"
    )
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL instead of SQLite")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="P", help="(%(default)s)"
    )
    parser.add_argument(
        "--shrink",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to look for a shorter history of a violation (%(default)s)",
    )
    args = parser.parse_args()
    began = said = time.monotonic()
    done, jobs, commands, virtual, cpu = 0, 0, 0, 0.0, 0.0
    found: list[Outcome] = []
    for outcome in outcomes(args):
        done, jobs, commands = done + 1, jobs + outcome.jobs, commands + outcome.commands
        virtual, cpu = virtual + outcome.seconds, cpu + outcome.took_s
        if outcome.violations:
            found.append(outcome)
            print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
            if len(found) == FOUND_MAX:
                break
        if time.monotonic() - said > SAID_S:
            said = time.monotonic()
            left = (said - began) / done * (args.seeds - done) / 60
            print(f"{done} of {args.seeds} seeds, {left:.0f} minutes left", flush=True)
    for outcome in found:
        print(shown(outcome, args), flush=True)
    print(
        f"{done} seeds, {jobs} jobs, {commands} commands of hosts, {virtual / 3600:.1f} virtual "
        f"hours in {time.monotonic() - began:.0f} s ({cpu:.0f} s of processor time): "
        f"{len(found) or 'nothing'} violated"
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
