# SPDX-License-Identifier: Apache-2.0
"""The gate must catch what it is there for, and name it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.gate import check, instructions, transfer, validity
from benchmarks.machine import CHECKOUT

_BASE = {"instructions.http_head": 1000.0, "http.requests": 8.0, "http.cached_per_byte": 0.0}


def _regressed(now: dict[str, float], parts: list[str] | None = None) -> list[str]:
    verdicts = check.evaluate(_BASE, now, parts or list(check.PARTS))
    return [verdict.metric for verdict in verdicts if verdict.regressed]


def test_the_same_counts_pass() -> None:
    """No change, no alarm."""
    assert _regressed(dict(_BASE)) == []


@pytest.mark.parametrize(
    ("metric", "value"),
    [("instructions.http_head", 1100.0), ("http.requests", 16.0), ("http.cached_per_byte", 1.0)],
)
def test_a_worse_count_is_named(metric: str, value: float) -> None:
    """An added copy, a doubled request, a lost O_DIRECT: each by the metric that shows it."""
    assert _regressed({**_BASE, metric: value}) == [metric]


def test_a_metric_that_is_no_longer_counted_is_a_regression() -> None:
    """Deleting a counter must not be the way past the gate."""
    now = {key: value for key, value in _BASE.items() if key != "http.requests"}
    assert _regressed(now) == ["http.requests"]
    assert _regressed(now, ["instructions"]) == []


_KEYS = {"everywhere": "everywhere", "compiler": "cc 12", "tls": "openssl 3", "python": "3.11"}
_STORED = {
    "everywhere": {"everywhere": {"http.requests": 41.0}},
    "compiler": {"cc 12": {"instructions.plan": 190.0}, "cc 9": {"instructions.plan": 250.0}},
}


def test_a_count_is_compared_with_those_of_the_same_compiler_only() -> None:
    """Another compiler's instructions say nothing; requests are the program's own everywhere."""
    assert validity.select(_STORED, _KEYS) == {"http.requests": 41.0, "instructions.plan": 190.0}
    elsewhere = {**_KEYS, "compiler": "cc 14"}
    assert validity.select(_STORED, elsewhere) == {"http.requests": 41.0}


def test_what_cannot_be_compared_here_is_said() -> None:
    """A count that is silently left out looks like one that passed."""
    now = {"http.requests": 41.0, "instructions.plan": 999.0}
    left_out = validity.left_out(_STORED, {**_KEYS, "compiler": "cc 14"}, now)
    assert list(left_out.values()) == [["instructions.plan"]]
    assert "cc 14" in next(iter(left_out))
    assert validity.left_out(_STORED, _KEYS, now) == {}


def test_a_new_baseline_leaves_those_of_other_machines() -> None:
    """Whoever updates it on one compiler must not take it from the others."""
    merged = validity.merged(_STORED, _KEYS, {"http.requests": 40.0, "instructions.plan": 180.0})
    assert merged["everywhere"]["everywhere"] == {"http.requests": 40.0}
    assert merged["compiler"]["cc 12"] == {"instructions.plan": 180.0}
    assert merged["compiler"]["cc 9"] == {"instructions.plan": 250.0}


def test_the_lower_of_two_counts_stands() -> None:
    """Other work on the machine only adds; a metric missing once is missing."""
    assert check.lower({"a": 2.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 3.0}) == {"a": 1.0, "b": 1.0}


def test_this_machine_has_a_key_for_every_kind(tmp_path: Path) -> None:
    """A metric that depends on something nobody determines could never be compared."""
    kinds = {validity.depends_on(f"instructions.{name}") for name in instructions.DRIVERS}
    kinds |= {kind for _, kind in validity._DEPENDS}
    assert kinds <= validity.here(tmp_path).keys()


def test_every_stored_metric_has_a_limit() -> None:
    """A metric without a limit would stop the gate instead of being checked."""
    for name in (
        *(f"instructions.{d}" for d in instructions.DRIVERS),
        "instructions.start",
        "instructions.hash_one",
        "hash.two_over_one",
        "lanes.idle_share",
        "start.modules",
        "http.peak_mib",
    ):
        assert check.limit_of(name)
    empty = transfer.Counted(
        size=2,
        calls={"allocations": 0, "copied_bytes": 0},
        sent_bytes=0,
        cached_bytes=0,
        io={"write_bytes": 0, "read_bytes": 0},
        syscalls=transfer._strace_counts(""),
    )
    small = transfer.Counted(**{**_fields(empty), "size": 1})
    for key in transfer._slopes(small, empty):
        assert check.limit_of(f"http.{key}")


def _fields(counted: transfer.Counted) -> dict[str, object]:
    return {name: getattr(counted, name) for name in transfer.Counted.__slots__}


def test_calls_are_read_from_straces_table() -> None:
    """The columns of ``strace -c``: share, seconds, us a call, calls, errors (may miss), name."""
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.010000          10       320           pwrite64
 30.00    0.005000           5      1000         7 recvfrom
  5.00    0.001000           1       900           futex
  5.00    0.001000           1         4         1 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.017000           7      2224         8 total
"""
    assert transfer._strace_counts(table) == {
        "writes": 320,
        "reads": 1000,
        "waits": 900,
        "flushes": 0,
        "other": 4,
    }


def test_a_slower_parser_fails_the_instruction_gate(tmp_path: Path) -> None:
    """A copy of the core with one memcpy more in its head parser must not pass."""
    if reason := instructions.missing():
        pytest.skip(reason)
    tree = tmp_path / "tree"
    shutil.copytree(CHECKOUT / "csrc", tree / "csrc", ignore=shutil.ignore_patterns("*.o", "*.a"))
    source = tree / "csrc" / "http" / "http_head.c"
    opening = "long fdl_http_parse_head(const char *buf, size_t len, struct fdl_http_head *out,"
    text = source.read_text()
    at = text.index("{", text.index(opening)) + 1
    slow = (
        "\n    char copy[4096];\n    if (len <= sizeof(copy)) { memcpy(copy, buf, len);"
        '\n        __asm__ volatile("" : : "r"(copy) : "memory");'
        "\n        for (size_t i = 0; i < len; i++) copy[i] ^= 1;"
        '\n        __asm__ volatile("" : : "r"(copy) : "memory"); }\n'
    )
    source.write_text(text[:at] + slow + text[at:])
    folder = tmp_path / "build"
    folder.mkdir()
    before = instructions.count(None, folder)
    after_folder = tmp_path / "build-slow"
    after_folder.mkdir()
    after = instructions.count(tree, after_folder)
    verdicts = check.evaluate(before, after, ["instructions"])
    assert [v.metric for v in verdicts if v.regressed] == ["instructions.http_head"]


def test_a_lost_pair_of_chains_fails_the_gate(tmp_path: Path) -> None:
    """OpenSSL computes two digests in twice the time of one, our kernel in hardly more."""
    if reason := instructions.missing():
        pytest.skip(reason)
    if "sha_ni" not in validity.here(tmp_path)["sha"]:
        pytest.skip("this processor has no SHA instructions: no kernel pairs single chains")
    csrc = CHECKOUT / "csrc"
    library = instructions.build_core(csrc, tmp_path)
    before = instructions.count_hash(csrc, library, tmp_path)
    after = instructions.count_hash(csrc, library, tmp_path, {"FASTDL_SHA256": "openssl"})
    verdicts = check.evaluate(before, after, ["instructions"])
    lost = {"hash.two_over_one", "hash.two_pieces_over_one"}
    assert lost <= {v.metric for v in verdicts if v.regressed}
    again = instructions.count_hash(csrc, library, tmp_path)
    assert not [v for v in check.evaluate(before, again, ["instructions"]) if v.regressed]
