# SPDX-License-Identifier: Apache-2.0
"""Kill, starve and cut off whatever writes, at any system call, and check what is left.

``scripts/torture --points N --seed S`` draws N points: a kind of download and a target, a
keystore, or a manager on one of its databases; a call of an undisturbed run; and what happens
there. Then the same command is run again until it ends, and the invariants are checked: see
``downloads``, ``cuts``, ``keystores`` and ``databases``.

A finished point is recorded in the ledger (JSON lines) and not repeated: interrupt it, run
it again, raise N. It ends with a table of counts, and 1 if an invariant did not hold.
``--report`` writes the table to a file, and the counts as CSV beside it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from scripts.torturing import ledger, sweep


def main() -> int:
    """Torture; 1 if an invariant did not hold."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--points", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--ledger", type=Path, help="JSON lines; points in it are not done again")
    parser.add_argument(
        "--report", type=Path, metavar="FILE.csv", help="write the counts to this file"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no point after so long")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=list(sweep.KINDS),
        default=list(sweep.KINDS),
        metavar="KIND",
        help=f"draw only these: {', '.join(sweep.KINDS)}",
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # remove what was made
    path = args.ledger or Path(f"build/torture-{args.seed}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with sweep.rig() as made:
        rows = sweep.swept(
            made, path, seed=args.seed, points=args.points, seconds=args.seconds, kinds=args.kinds
        )
    found = ledger.counts(rows)
    print(f"{ledger.today()}:\n\n{ledger.table(found)}")
    if args.report:
        args.report.write_text(f"# {ledger.today()}\n{ledger.to_csv(found)}")
    return int(any(row["found"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
