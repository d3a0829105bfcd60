# SPDX-License-Identifier: Apache-2.0
"""Streams that are closed, full or of another encoding: clear or right, and never in an image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.errors import LimitError, shortage

DATA = bytes(range(256)) * 4096


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """*script* by sh in *folder*, where ``$F`` is the command and ``src`` a file to fetch."""
    (folder / "src").write_bytes(DATA)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PY": sys.executable}
    text = f'F() {{ "$PY" -m fastdl "$@"; }}\n{script}'
    return subprocess.run(
        ["sh", "-c", text], cwd=folder, env=environ, capture_output=True, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["", "--json", "--progress json"])
def test_a_closed_stream_is_no_reason_to_fail(tmp_path: Path, closed: str, words: str) -> None:
    """Daemons start commands so; the free number must not become the target's descriptor."""
    done = shell(f"F get src -o x {words} {closed}", tmp_path)
    assert done.returncode == 0, done
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize("words", ["", "--json"])
def test_what_is_published_stays_a_success_where_it_cannot_be_told(
    tmp_path: Path, words: str
) -> None:
    """The file is there, verified and durable: only the report is lost, and that is said."""
    done = shell(f"F get src -o x {words} >/dev/full", tmp_path)
    assert done.returncode == 0, done
    assert b"the result cannot be printed: No space left on device" in done.stderr
    assert (tmp_path / "x").read_bytes() == DATA
    done = shell(f"F get src -o y {words} --progress json 2>/dev/full", tmp_path)
    assert done.returncode == 0, done
    assert (tmp_path / "y").read_bytes() == DATA


@pytest.mark.parametrize("words", ["--help", "--version", "probe src", "probe src --json"])
@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED;"])
def test_an_answer_that_cannot_be_written_is_an_error(
    tmp_path: Path, words: str, unbuffered: str
) -> None:
    """Who asks for output and loses it has to know: the disk is full, it is no bug."""
    done = shell(f"{unbuffered} F {words} >/dev/full", tmp_path)
    assert done.returncode == 30, done
    assert b"SINK_SPACE: writing to standard output" in done.stderr


ANSWERS = (
    "get -s src -o -",
    "metalink create src --url https://a.example/src",
    "probe src",
    "probe src --json",
    "inspect src",
    "inspect src --json",
    "get --help",
    "get --help all",
    "probe --help",
    "keystore list --help",
    "--help",
    "--version",
)


@pytest.mark.parametrize("words", ANSWERS)
@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED;"])
def test_a_command_whose_product_is_lost_fails(tmp_path: Path, words: str, unbuffered: str) -> None:
    """Into a device that is full, a file at its limit, a stream that is closed, nobody's pipe."""
    refusal = 24 if words.startswith("inspect") else 0
    for out, code, sentence in (
        (">/dev/full", 30, b"SINK_SPACE: writing to standard output"),
        (">&-", 31, b"SINK_IO: writing to standard output: it is closed"),
    ):
        done = shell(f"{unbuffered} F {words} {out}", tmp_path)
        assert done.returncode == code, done
        assert sentence in done.stderr
    done = shell(f"{unbuffered} ulimit -f 0; F {words} >short", tmp_path)
    assert done.returncode == 30, done
    done = shell(f"{unbuffered} (F {words}; echo $? >code) | true; cat code", tmp_path)
    assert int(done.stdout) in {refusal, 0, 141}, done  # the pipe may take it before it breaks


def test_a_short_write_is_no_success(tmp_path: Path) -> None:
    """Without a buffer Python forgets what a full disk did not take."""
    script = "PYTHONUNBUFFERED=1; export PYTHONUNBUFFERED; ulimit -f 1; F get --help all >short"
    done = shell(script, tmp_path)
    assert done.returncode == 30, done


@pytest.mark.parametrize("words", ["", "--json"])
def test_a_result_that_was_not_told_leaves_the_note(tmp_path: Path, words: str) -> None:
    """The same command finds its own work, as it does after a kill; a closed stream asked for no
    result."""
    (tmp_path / "other").write_bytes(DATA)
    for one in ("src -o x", "-Z src other -d new"):
        done = shell(f"F get {one} {words} >/dev/full && F get {one} {words}", tmp_path)
        assert done.returncode == 0, done
        assert b"published by an earlier run" in done.stderr + done.stdout
    assert shell(f"F get src -o y {words} >&-", tmp_path).returncode == 0
    assert not list(tmp_path.rglob(".*release"))


def test_zero_is_no_limit_of_time(tmp_path: Path) -> None:
    """As curl means it."""
    done = shell("F get src -o x --max-time 0 --retry-max-time 0", tmp_path)
    assert done.returncode == 0, done


def test_the_version_shows_what_the_environment_chose(tmp_path: Path) -> None:
    """And refuses what ``get`` refuses."""
    done = shell("FASTDL_SHA256=openssl F --version", tmp_path)
    assert b"sha-256 by openssl" in done.stdout
    done = shell("FASTDL_SHA256=abacus F --version", tmp_path)
    assert done.returncode == 2, done


def test_names_beyond_an_encoding_are_escaped(tmp_path: Path) -> None:
    """A terminal in latin-1, and a name that is not UTF-8."""
    done = shell("PYTHONIOENCODING=latin-1 F get src -o 'x\u20ac'", tmp_path)
    assert done.returncode == 0, done
    assert rb"x\u20ac" in done.stdout
    done = shell("F get src -o \"$(printf 'y\\377')\"", tmp_path)
    assert done.returncode == 0, done
    done = shell("F get src -o \"$(printf 'z\\377')\" --json", tmp_path)
    assert done.returncode == 0, done
    assert rb"z\udcff" in done.stdout


@pytest.mark.parametrize("limit", [9, 10, 12])
def test_a_shortage_of_descriptors_is_named(tmp_path: Path, limit: int) -> None:
    """Somebody has to raise a limit; nobody has to report a bug."""
    done = shell(f"ulimit -n {limit}; F get src -o x", tmp_path)
    assert done.returncode in {0, 25}, done
    if done.returncode:
        assert b"LIMIT" in done.stderr
        assert b"file descriptors" in done.stderr
    assert (tmp_path / "x").exists() == (done.returncode == 0)


def test_a_shortage_of_memory_is_named(tmp_path: Path) -> None:
    """Wherever it shows, also where a library is loaded only then: it is no bug."""
    describe = "metalink create src --url https://a.example/src"
    for limit in (22_000, 30_000, 38_000, 46_000, 54_000):
        for words in ("get src -o x --overwrite file", "probe src", describe):
            done = shell(f"ulimit -v {limit}; F {words}", tmp_path)
            assert b"INTERNAL" not in done.stderr, (limit, done)


def test_sixteen_descriptors_are_enough(tmp_path: Path) -> None:
    """For a plain download."""
    done = shell("ulimit -n 16; F get src -o x", tmp_path)
    assert done.returncode == 0, done


def test_without_home_and_environment(tmp_path: Path) -> None:
    """cron and systemd start commands with next to nothing."""
    done = shell('exec env -i "$PY" -m fastdl get src -o x', tmp_path)
    assert done.returncode == 0, done


def test_what_is_no_shortage_is_not_called_one() -> None:
    """Only what the machine ran out of."""
    assert isinstance(shortage(MemoryError()), LimitError)
    assert isinstance(shortage(OSError(24, "x")), LimitError)
    assert isinstance(shortage(ImportError("libx.so: failed to map segment from x")), LimitError)
    assert isinstance(shortage(OSError("libx.so: Cannot allocate memory")), LimitError)
    assert isinstance(shortage(ImportError("libx.so: Too many open files")), LimitError)
    assert shortage(OSError(5, "x")) is None
    assert shortage(ImportError("No module named x")) is None
    assert shortage(ValueError("x")) is None
