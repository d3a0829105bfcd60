# SPDX-License-Identifier: Apache-2.0
"""Deliberately worse builds of a copy of the tree must fail the gate, by the right name.

The copy is built once; an environment variable that exists in the copy alone chooses what is
made worse.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import origin, runner
from benchmarks.gate import check, transfer
from benchmarks.machine import CHECKOUT
from tests.env.slow import slow

pytestmark = slow

_HOOK = "FASTDL_GATE_MUTATION"
# file, what to find, what to put there
_MUTATIONS = (
    (
        "csrc/net/conn.c",
        r"(curl_easy_recv\(conn->easy, buf, len, &n\);)",
        r"""\1
        static _Thread_local char copied[65536];
        if (getenv("HOOK") && !strcmp(getenv("HOOK"), "memcpy") && rc == CURLE_OK)
            for (size_t at = 0; at < n; at += sizeof(copied))
                memcpy(copied, (char *)buf + at,
                       n - at < sizeof(copied) ? n - at : sizeof(copied));""",
    ),
    (
        "csrc/job/sched.c",
        r"(uint32_t most = )run_blocks\(sched, p\)",
        r"""\1getenv("HOOK") && !strcmp(getenv("HOOK"), "requests")
                           ? (run_blocks(sched, p) + 1) / 2 : run_blocks(sched, p)""",
    ),
    (
        "csrc/job/plan.c",
        r"(bool fdl_plan_expects\([^)]*\)\n\{\n)",
        r"""\1    if (getenv("HOOK") && !strcmp(getenv("HOOK"), "lanes"))
        return false;
""",
    ),
    (
        "src/fastdl/sinks/direct.py",
        r"(    The name is not used[^\n]*\n    \"\"\"\n)",
        r"""\1    if os.environ.get("HOOK") == "buffered":
        return fd, 1
""",
    ),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built copy of the sources with the hooks in it."""
    copy = tmp_path_factory.mktemp("mutated") / "tree"
    leave = shutil.ignore_patterns("*.so", "*.o", "*.a", "__pycache__")
    for name in ("src", "csrc"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=leave)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, copy / name)
    for name, find, put in _MUTATIONS:
        path = copy / name
        text, n = re.subn(find, put.replace("HOOK", _HOOK), path.read_text(), count=1)
        assert n == 1, f"{name} has changed: no place to make it worse"
        if name.endswith(".c"):
            text = text.replace("#include", "#include <stdlib.h>\n#include <string.h>\n#include", 1)
        path.write_text(text)
    (copy / "README.md").write_text("copy\n")
    (copy / "LICENSE").write_text("copy\n")
    setup = (sys.executable, "setup.py", "-q", "build_clib", "--build-clib", "lib")
    done = subprocess.run(
        [*setup, "build_ext", "--library-dirs", "lib", "--inplace"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return copy


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runner.Bench]:
    if reason := transfer.missing() or origin.missing():
        pytest.skip(reason)
    with runner.bench(tmp_path_factory.mktemp("bench"), timeout_s=120) as opened:
        yield opened


@pytest.fixture(scope="module")
def honest(bench: runner.Bench, tree: Path) -> dict[str, float]:
    """What the copy counts while nothing is made worse: the baseline of these tests."""
    return _count(bench, tree)


def _count(bench: runner.Bench, tree: Path) -> dict[str, float]:
    return transfer.count(bench, bench.work, tree=tree, schemes=["http"])


@pytest.mark.parametrize(
    ("mutation", "metric"),
    [
        ("memcpy", "http.copied_per_byte"),
        ("buffered", "http.cached_per_byte"),
        ("requests", "http.requests"),
        ("lanes", "lanes.idle_share"),
    ],
)
def test_a_worse_build_is_named(
    bench: runner.Bench,
    tree: Path,
    honest: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    mutation: str,
    metric: str,
) -> None:
    """An added memcpy, a lost O_DIRECT and doubled requests are what the gate is there for."""
    monkeypatch.setenv(_HOOK, mutation)
    verdicts = check.evaluate(honest, _count(bench, tree), ["transfer"])
    assert metric in [verdict.metric for verdict in verdicts if verdict.regressed]
