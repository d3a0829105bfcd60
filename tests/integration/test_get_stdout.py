# SPDX-License-Identifier: Apache-2.0
"""What comes out of ``-o -``? Verified pieces in order, early; and an exit code that is true."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.faults import Rule, When
from tests.env.here import Here, sha256
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
PIECE = 256 * 1024
CONTENT = pseudo_random(21, 12 * MIB + 777)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@contextlib.contextmanager
def piped(here: Here, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """``fastdl get WORDS… | `` this test."""
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environ["XDG_STATE_HOME"] = str(here.home)
    process = subprocess.Popen(
        [sys.executable, "-m", "fastdl", "get", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=here.path,
        env=environ,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(here: Here, *words: str) -> tuple[int, bytes, str]:
    with piped(here, *words) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err.decode()


def with_pieces(*urls: str) -> Resource:
    """A metalink of CONTENT with digests of its pieces."""
    pieces = "".join(
        f"<hash>{hashlib.sha256(CONTENT[at : at + PIECE]).hexdigest()}</hash>"
        for at in range(0, len(CONTENT), PIECE)
    )
    text = (
        '<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="disk.img">'
        f"<size>{len(CONTENT)}</size>"
        f'<pieces type="sha-256" length="{PIECE}">{pieces}</pieces>'
        + "".join(f'<url priority="{i + 1}">{url}</url>' for i, url in enumerate(urls))
        + "</file></metalink>"
    )
    return Resource.of(text.encode(), content_type="application/metalink4+xml")


def test_the_bytes_and_nothing_else(here: Here) -> None:
    """On stdout; what is said of them goes to stderr, and no file is left anywhere."""
    with FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as origin:
        code, out, err = run(here, "-o", "-", origin.url("/disk.img"))
        assert (code, out) == (0, CONTENT)
        assert "integrity none" in err
        code, out, err = run(
            here, "-o", "-", "--json", origin.url("/disk.img"), "--checksum", sha256(CONTENT)
        )
    assert (code, out) == (0, CONTENT)
    assert '"integrity": "strong"' in err
    assert here.names() == []
    assert [path for path in here.home.rglob("*") if path.is_file()] == []


def test_a_liars_piece_never_comes_out(here: Here) -> None:
    """Another mirror's is handed on in its place, and the order holds."""
    lies = [Rule(when=When(), corrupt=5 * MIB)]
    with (
        FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=lies)}) as liar,
        FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as origin,
    ):
        liar.resources["/m.meta4"] = with_pieces(liar.url("/disk.img"), origin.url("/disk.img"))
        code, out, err = run(here, "-o", "-", liar.url("/m.meta4"))
    assert code == 0, err
    assert out == CONTENT


def test_what_is_wrong_ends_the_stream_before_it(here: Here) -> None:
    """Where every mirror lies: what came out is the true beginning, and the exit code says 21."""
    lies = [Rule(when=When(), corrupt=5 * MIB)]
    with FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=lies)}) as liar:
        liar.resources["/m.meta4"] = with_pieces(liar.url("/disk.img"))
        code, out, err = run(here, "-o", "-", liar.url("/m.meta4"))
    assert code == 21, err
    assert len(out) <= 5 * MIB
    assert CONTENT.startswith(out)


def test_without_pieces_the_exit_code_tells_in_the_end(here: Here) -> None:
    """Nothing is begun anew behind what has left already, and what has not stays."""
    with FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as origin:
        code, out, _ = run(here, "-o", "-", origin.url("/disk.img"), "--checksum", "0" * 64)
    assert code == 21
    assert CONTENT.startswith(out)


def test_it_comes_while_more_is_fetched(here: Here) -> None:
    """The first bytes are there long before the last have left the server."""
    slow = [Rule(when=When(), rate=4 * MIB)]
    with FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=slow)}) as origin:
        words = ("-o", "-", "--max-connections=1", "--block-size=64K", origin.url("/disk.img"))
        with piped(here, *words) as process:
            assert process.stdout is not None
            first = process.stdout.read(2 * MIB)
            assert origin.sent < len(CONTENT) - 2 * MIB
            rest, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert first + rest == CONTENT


def test_a_reader_that_goes(here: Here) -> None:
    """As of any command in a pipe."""
    with (
        FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as origin,
        piped(here, "-o", "-", origin.url("/disk.img")) as process,
    ):
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(timeout=60) == 141


def test_no_terminal(here: Here) -> None:
    """Is asked to show a disk."""
    ours, theirs = os.openpty()
    ended = subprocess.run(
        [sys.executable, "-m", "fastdl", "get", "-o", "-", "http://127.0.0.1:1/x"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=here.path,
        check=False,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == 2
    assert b"terminal" in ended.stderr
