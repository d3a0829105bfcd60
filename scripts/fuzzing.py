# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets of tests/fuzz, and keeps the ledger of how often they have run.

``docs/fuzzing.csv`` has a line for each recorded run; ``docs/fuzzing.md`` is written from it and
from the first lines of the targets. New inputs are kept in ``build/fuzz`` and used by the next run.
"""

from __future__ import annotations

import argparse
import configparser
import csv
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ROOT / "tests" / "fuzz"
BUILD = ROOT / "build"
WORK = BUILD / "fuzz"
LEDGER = ROOT / "docs" / "fuzzing.csv"
PAGE = ROOT / "docs" / "fuzzing.md"

SECONDS = 60
"""Of all targets together where nothing else is said: what continuous integration spends."""
INPUT_SECONDS = 30
"""One input that takes longer is a finding."""
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "CLANG")

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by scripts/fuzzing.py from docs/fuzzing.csv and tests/fuzz: edit those. -->
# Fuzzing

Each parser of bytes from outside has its own fuzz target. For C, clang's libFuzzer generates inputs
that reach new code, under AddressSanitizer and UndefinedBehaviorSanitizer; for Python, a small
mutator does the same, and any exception except the documented ones is a crash. A target states an
invariant, so that wrong results are found too. How to write one:
[tests/fuzz](../tests/fuzz/README.md).

<!-- not run: it takes minutes; scripts/test fuzzes for one -->
```console
$ scripts/fuzz                                 # one minute for all targets, as in scripts/test
$ scripts/fuzz --seconds 3600 land_qcow2       # an hour for one of them
$ scripts/fuzz --executions 1000000 --record   # that many each, added to the figures below
```

## Recorded runs

*Executions* are inputs tried, over all runs in [fuzzing.csv](fuzzing.csv). A *crash* is an input
that broke the invariant, triggered a sanitizer report, or took longer than {limit} s. All these
bugs are fixed, and the inputs are in the corpus that the tests replay.

| target | executions | crashes | runs | last | what it proves |
|---|---:|---:|---:|---|---|
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the ledger."""

    date: str
    commit: str
    target: str
    executions: int
    seconds: int
    crashes: int


def sources() -> dict[str, Path]:
    """The source of each target by its name: for libFuzzer, or in Python for ``mutating``."""
    paths = [*TARGETS.glob("fuzz_*.c"), *TARGETS.glob("fuzz_*.py")]
    return {path.stem.removeprefix("fuzz_"): path for path in sorted(paths)}


def invariant(source: Path) -> str:
    """The invariant that the target's first lines state."""
    text = source.read_text(encoding="utf-8")
    comment = re.search(r"- invariant: (.*?)(?:\n( \*)?\n|\*/|\"\"\")", text, re.DOTALL)
    return " ".join(comment[1].replace("\n * ", " ").split()) if comment else ""


def recorded(ledger: Path = LEDGER) -> list[Run]:
    """The runs of the ledger, oldest first."""
    if not ledger.exists():
        return []
    with ledger.open(newline="", encoding="utf-8") as file:
        return [
            Run(
                row["date"],
                row["commit"],
                row["target"],
                int(row["executions"]),
                int(row["seconds"]),
                int(row["crashes"]),
            )
            for row in csv.DictReader(file)
        ]


def record(runs: Sequence[Run], ledger: Path = LEDGER) -> None:
    """Append *runs* to the ledger."""
    new = not ledger.exists()
    with ledger.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(field.name for field in fields(Run))
        for run in runs:
            writer.writerow(getattr(run, field.name) for field in fields(Run))


def page(runs: Sequence[Run]) -> str:
    """The whole page as it should be."""
    by_target: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_target[run.target].append(run)
    rows = []
    now = sources()
    for target in sorted({*by_target, *now}):
        mine = by_target[target]
        last = f"{mine[-1].date}, {mine[-1].commit}" if mine else ""
        proves = invariant(now[target]) if target in now else "no longer a target"
        rows.append(
            f"| {target} | {sum(run.executions for run in mine):,} "
            f"| {sum(run.crashes for run in mine)} | {len(mine)} | {last} | {proves} |"
        )
    return HEAD.format(limit=INPUT_SECONDS) + "\n".join(rows) + "\n"


def build(names: Sequence[str]) -> None:
    """Compile the targets written in C with clang; SystemExit if that fails."""
    wanted = " ".join(f"fuzz_{name}" for name in names if sources()[name].suffix == ".c")
    if not wanted:
        return
    if shutil.which(os.environ.get("CLANG", "clang")) is None:
        raise SystemExit("fuzz: clang is not installed (Debian: clang libclang-rt-14-dev)")
    # A caller's CFLAGS or job server must not reach this make.
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    done = subprocess.run(
        ["make", "-s", f"-j{os.cpu_count() or 1}", "-C", ROOT / "csrc", "fuzz", f"FUZZ={wanted}"],
        env=environment,
        check=False,
    )
    if done.returncode:
        raise SystemExit("fuzz: the targets do not compile")


def program(target: str) -> list[str]:
    """What runs the target, with its own options: its ``.options``, as OSS-Fuzz reads them."""
    if sources()[target].suffix == ".py":
        return [sys.executable, "-m", "scripts.mutating", target]
    parsed = configparser.ConfigParser()
    parsed.read(TARGETS / f"fuzz_{target}.options", encoding="utf-8")
    found = dict(parsed["libfuzzer"]) if parsed.has_section("libfuzzer") else {}
    if "dict" in found:
        found["dict"] = str(TARGETS / found["dict"])
    own = [f"-{name}={value}" for name, value in found.items()]
    return [f"{BUILD}/c/fuzz/fuzz_{target}", "-rss_limit_mb=4096", "-print_final_stats=1", *own]


def fuzz(limit: str, commit: str, target: str) -> Run:
    """Run one target until *limit*, an option of libFuzzer, and return what it counted."""
    corpus, findings = WORK / "corpus" / target, WORK / "findings"
    seeds = TARGETS / "corpus" / f"fuzz_{target}"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{target}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            [
                "nice",
                *program(target),
                limit,
                f"-timeout={INPUT_SECONDS}",
                f"-artifact_prefix={findings}/{target}-",
                corpus,
                seeds,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    took = round(time.monotonic() - began)
    text = log.read_text(encoding="utf-8", errors="replace")
    counted = re.findall(r"^stat::number_of_executed_units: (\d+)$", text, re.MULTILINE)
    run = Run(
        time.strftime("%Y-%m-%d", time.gmtime()),
        commit,
        target,
        int(counted[-1]) if counted else 0,
        took,
        int(done.returncode != 0),
    )
    print(f"{target:16} {run.executions:12,} executions {took:6} s", flush=True)
    if run.crashes:
        print(*text.splitlines()[-60:], sep="\n", file=sys.stderr)
        print(f"fuzz: {target} failed: see {log} and {findings}", file=sys.stderr, flush=True)
    return run


def commit_now() -> str:
    """The current commit, with ``+`` if the core or its targets differ from it."""
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    changed = git(["git", "status", "--porcelain", "--", "csrc", "tests/fuzz"]).stdout
    return git(["git", "rev-parse", "--short=9", "HEAD"]).stdout.strip() + ("+" if changed else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    add = parser.add_argument
    add("target", nargs="*", help=f"of: {', '.join(sorted(sources()))}; default: all")
    add("--seconds", type=int, default=SECONDS, metavar="N", help="of all targets together [60]")
    add("--executions", type=int, metavar="N", help="of each target, however long that takes")
    add("--jobs", type=int, default=2, metavar="N", help="targets at a time [2]")
    add("--record", action="store_true", help="add the runs to docs/fuzzing.csv")
    add("--page", action="store_true", help="run nothing, only write docs/fuzzing.md")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Fuzz, print executions by target; 1 if one of them failed."""
    args = _parser().parse_args(arguments)
    if args.page:
        PAGE.write_text(page(recorded()), encoding="utf-8")
        return 0
    names = [name.removeprefix("fuzz_") for name in args.target] or sorted(sources())
    if unknown := set(names) - set(sources()):
        raise SystemExit(f"fuzz: no such target: {', '.join(sorted(unknown))}")
    commit = commit_now() if args.record else ""
    build(names)
    jobs = max(1, min(args.jobs, len(names)))
    seconds = max(1, args.seconds * jobs // len(names))
    limit = f"-runs={args.executions}" if args.executions else f"-max_total_time={seconds}"
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(partial(fuzz, limit, commit), names))
    print(f"{'together':16} {sum(run.executions for run in runs):12,} executions")
    if args.record:
        record(runs)
        PAGE.write_text(page(recorded()), encoding="utf-8")
    return int(any(run.crashes for run in runs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
