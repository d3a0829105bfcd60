# SPDX-License-Identifier: Apache-2.0
"""Fuzzes one target written in Python: ``one_input(data)`` of ``tests/fuzz/fuzz_<target>.py``.

A small counterpart of libFuzzer for targets in Python: inputs are changed at random, and one that
reaches a new line of ``src/fastdl`` is kept and changed further. The options and the last line are
libFuzzer's, so that ``scripts/fuzzing.py`` runs both the same way.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ROOT / "tests" / "fuzz"
TRACED = f"{ROOT}/src/fastdl/"
NUMBERS = (0, 1, 2, 3, 4, 8, 16, 32, 63, 64, 127, 128, 255, 256, 511, 512, 513, 4096, 65535, 65536,
           2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
MAX_LEN = 1 << 16

OneInput = Callable[[bytes], None]


def load(target: str) -> OneInput:
    """The target's function."""
    path = TARGETS / f"fuzz_{target}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one_input: OneInput = module.one_input
    return one_input


class Coverage:
    """The lines of the package that some input has reached."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self._new = False

    def reaches_new(self, call: Callable[[], None]) -> bool:
        """Run *call*; whether it reached a line that no earlier input did."""
        self._new = False
        sys.settrace(self._enter)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
        finally:
            sys.settrace(None)
        return self._new

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(TRACED) else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            place = (frame.f_code, frame.f_lineno)
            if place not in self.seen:
                self.seen.add(place)
                self._new = True
        return self._line


def _overwrite(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((1, 1, 2, 4, 8))
    number = rng.choice((rng.choice(NUMBERS), rng.getrandbits(64))) % (1 << 8 * width)
    at = rng.randrange(max(1, len(data)))
    data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))


def mutated(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """One of *corpus*, changed in one to four places."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 64, 1024)))
        other = rng.choice(corpus)
        there = rng.randrange(len(other) + 1)
        part = other[there : there + rng.choice((1, 4, 16, 256))]
        match rng.randrange(8):
            case 0 if data:
                data[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case 3:
                data[at:at] = part
            case 4:
                data[at : at + len(part)] = part
            case 5:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
            case _:
                _overwrite(data, rng)
    return bytes(data[:MAX_LEN])


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError("the input takes too long")


def main(arguments: Sequence[str]) -> int:
    """Run a target until its limit; 1 and a file with the input if it fails."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutating", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("corpus", nargs="+", type=Path, help="folders; the first gets new inputs")
    parser.add_argument("-runs", type=int, default=0)
    parser.add_argument("-max_total_time", type=int, default=0, metavar="SECONDS")
    parser.add_argument("-timeout", type=int, default=30, metavar="SECONDS")
    parser.add_argument("-artifact_prefix", default="")
    args = parser.parse_args(arguments)
    one_input, coverage = load(args.target), Coverage()
    rng = random.Random()  # noqa: S311 - nothing secret
    signal.signal(signal.SIGALRM, _too_slow)
    waiting = [path.read_bytes() for folder in args.corpus for path in sorted(folder.iterdir())]
    corpus: list[bytes] = []
    runs, end = 0, time.monotonic() + args.max_total_time
    failed = False
    while (
        waiting
        or (args.runs and runs < args.runs)
        or (args.max_total_time and time.monotonic() < end)
    ):
        seed = bool(waiting)
        data = waiting.pop() if waiting else mutated(corpus or [b""], rng)
        runs += 1
        try:
            signal.alarm(args.timeout)
            new = coverage.reaches_new(lambda data=data: one_input(data))  # type: ignore[misc]
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            traceback.print_exc()
            name = hashlib.sha256(data).hexdigest()[:16]
            Path(f"{args.artifact_prefix}crash-{name}").write_bytes(data)
            failed = True
            break
        finally:
            signal.alarm(0)
        if new or seed:
            corpus.append(data)
        if new and not seed:
            (args.corpus[0] / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"lines: {len(coverage.seen)} corpus: {len(corpus)}")
    print(f"stat::number_of_executed_units: {runs}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
