# SPDX-License-Identifier: Apache-2.0
"""Do the owners of the C objects keep what the C side borrows, and turn errors over whole?"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.core.config import JobConfig
from fastdl.core.job import Job, block_for, sha256_by
from fastdl.core.lander import StreamLander
from fastdl.core.net import Mirror, Net, Stream, Wakeup
from fastdl.core.sink import Sink
from fastdl.errors import (
    Cancelled,
    HttpStatusError,
    IntegrityError,
    NetError,
    OriginChangedError,
    SizeError,
    TrustError,
    UsageError,
)
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

BLOCK = 1 << 20
CONTENT = pseudo_random(3, 5 * BLOCK + 77)


def net(**more: object) -> Net:
    defaults: dict[str, object] = {
        "connect_timeout": 5.0,
        "stall_timeout": 5.0,
        "follow_redirects": True,
        "strict": False,
    }
    return Net(**(defaults | more))  # type: ignore[arg-type]


def job(mirrors: list[Mirror], sink: Sink, total: int | None, **more: object) -> Job:
    defaults: dict[str, object] = {
        "net": net(),
        "mirrors": mirrors,
        "sink": sink,
        "total": total,
        "block": BLOCK,
        "window": 16 << 20,
        "max_connections": 4,
        "pace": None,
        "retry": 1,
        "retry_time": 0.0,
        "retry_delay": 0.0,
        "provable": True,
        "record": False,
        "detect_zeros": False,
        "hold": 0,
        "algorithms": ["sha-256"],
    }
    return Job(JobConfig(**(defaults | more)))  # type: ignore[arg-type]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultOrigin]:
    resources = {
        "/good": Resource.of(CONTENT),
        "/slow": Resource.of(CONTENT, rules=[Rule(rate=50_000)]),
        "/bad": Resource.of(CONTENT, rules=[Rule(corrupt=3 * BLOCK + 5)]),
        "/busy": Resource.of(CONTENT, rules=[Rule(status=503)]),
        "/dynamic": Resource.of(
            CONTENT, content_type="text/special", rules=[Rule(ignore_range=True, chunked="right")]
        ),
    }
    with FaultOrigin(resources) as server:
        yield server


def file_sink(fd: int, size: int | None = None) -> Sink:
    return Sink(fd, fd, align=1, size=size, hold=0, blank=True)


def finish(running: Job) -> tuple[int, dict[str, bytes]]:
    while not running.wait(100):
        pass
    return running.finish()


def test_a_job_brings_the_bytes_and_their_digest(origin: FaultOrigin, target: int) -> None:
    """The shortest way through all owners."""
    mirror = Mirror("http", origin.url("/good"), max_connections=4)
    running = job([mirror], file_sink(target), len(CONTENT))
    total, digests = finish(running)
    assert total == len(CONTENT)
    assert digests == {"sha-256": hashlib.sha256(CONTENT).digest()}
    assert os.pread(target, total + 1, 0) == CONTENT
    assert running.status()["done_bytes"] == total
    assert not running.status()["running"]
    assert mirror.bytes == total
    assert mirror.state == "ok"


def test_the_bad_pieces_mirror_and_offset_are_in_the_error(
    origin: FaultOrigin, target: int
) -> None:
    """The operator must know whom to call, and about what."""
    hashes = b"".join(
        hashlib.sha256(CONTENT[at : at + BLOCK]).digest() for at in range(0, len(CONTENT), BLOCK)
    )
    mirror = Mirror("http", origin.url("/bad"), max_connections=4)
    running = job([mirror], file_sink(target), len(CONTENT), pieces=("sha-256", BLOCK, hashes))
    with pytest.raises(IntegrityError) as caught:
        finish(running)
    assert caught.value.offset == 3 * BLOCK
    assert caught.value.mirror == 0
    assert mirror.state == "disqualified"
    assert mirror.error_code == IntegrityError.exit_code


def test_a_status_is_told_and_503_is_retryable(origin: FaultOrigin, target: int) -> None:
    """A scheduler decides by retryable, a human by the number."""
    running = job([Mirror("http", origin.url("/busy"))], file_sink(target), 5)
    with pytest.raises(HttpStatusError, match="503") as caught:
        finish(running)
    assert caught.value.retryable


def test_closing_a_sink_stops_the_job_that_writes_through_it(
    origin: FaultOrigin, target: int
) -> None:
    """An exception between start and finish must not leave threads over freed memory."""
    sink = file_sink(target)
    running = job([Mirror("http", origin.url("/slow"))], sink, len(CONTENT))
    sink.close()
    assert running.wait(0)
    with pytest.raises(Cancelled):
        running.finish()
    sink.close()


def test_a_job_that_nobody_holds_is_stopped_whatever_the_collector_does(
    origin: FaultOrigin, target: int
) -> None:
    """A cycle through a traceback may be all that holds a job."""

    class Holder:
        pass

    holder = Holder()
    holder.me = holder  # type: ignore[attr-defined]
    holder.job = job(  # type: ignore[attr-defined]
        [Mirror("http", origin.url("/slow"))], file_sink(target), len(CONTENT)
    )
    del holder
    gc.collect()


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"mirrors": []}, UsageError),
        ({"max_connections": 65}, UsageError),
        ({"pieces": ("sha-256", BLOCK, b"\0" * 32)}, SizeError),
        ({"algorithms": ["sha-256"] * 7}, ValueError),
        ({"algorithms": ["sha-3"]}, ValueError),
    ],
    ids=str,
)
def test_what_cannot_be_started_is_refused(
    more: dict[str, object], error: type[Exception], target: int
) -> None:
    """The C structs have fixed sizes: the boundary must check before it copies."""
    with pytest.raises(error):
        job(
            **{"mirrors": [Mirror("file", "/x")], "sink": file_sink(target), "total": 5 * BLOCK}
            | more
        )  # type: ignore[arg-type]


def test_a_changed_file_is_noticed(tmp_path: Path, target: int) -> None:
    """A local source may be written to while it is read."""
    (tmp_path / "source").write_bytes(CONTENT)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    mirror = Mirror("file", "/source", fd=fd)
    stream = Stream(net(), mirror, Wakeup())
    stream.begin(0, 10)
    os.truncate(tmp_path / "source", 100)
    with pytest.raises(OriginChangedError):
        stream.begin(10, 10)


def test_the_head_of_a_chunked_answer_outlives_its_body(origin: FaultOrigin) -> None:
    """Media type and links are looked at after the first bytes have been read."""
    stream = Stream(net(), Mirror("http", origin.url("/dynamic")), Wakeup())
    stream.begin(0, BLOCK)
    have = b""
    while len(have) < 3 * BLOCK:
        have += stream.read(1000)
    assert have == CONTENT[: len(have)]
    status, fields = stream.head()
    assert status == 200
    assert dict(fields)["content-type"] == "text/special"


def test_a_stream_tells_where_it_is(origin: FaultOrigin) -> None:
    """The transfer goes on with the answer that resolving opened."""
    mirror = Mirror("http", origin.url("/good"))
    stream = Stream(net(), mirror, Wakeup())
    stream.begin(100, 50)
    assert (stream.offset, stream.end, stream.whole) == (100, 150, False)
    assert stream.read(1000) == CONTENT[100:150]
    assert stream.read(1) == b""
    assert (mirror.total, mirror.ranges, mirror.etag) == (len(CONTENT), True, '"v1"')
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_a_cancelled_wakeup_stops_every_stream_of_it(origin: FaultOrigin) -> None:
    """Cancelling is sticky: what starts later is stopped as well."""
    wakeup = Wakeup()
    wakeup.cancel()
    stream = Stream(net(), Mirror("http", origin.url("/good")), wakeup)
    with pytest.raises(Cancelled):
        stream.begin(0, 1)


def test_nobody_listens_is_a_network_error(origin: FaultOrigin) -> None:
    """The class decides whether another host may try."""
    with pytest.raises(NetError, match="connected"):
        Stream(net(), Mirror("http", "http://127.0.0.1:1/"), Wakeup()).begin(0, 1)


def test_trust_and_ranges_are_checked_where_they_are_given() -> None:
    """A typing error shows up before the first connection."""
    with pytest.raises(TrustError):
        net(anchors=["no certificate"])
    with pytest.raises(UsageError):
        net(allowed_cidrs=["10.0.0.0/99"])


@pytest.mark.parametrize(
    ("length", "wanted", "block"),
    [
        (None, BLOCK, BLOCK),
        (1, BLOCK, BLOCK),
        (4096, BLOCK, BLOCK),
        (3 * 4096, BLOCK, BLOCK // 12288 * 12288),
        (BLOCK, BLOCK, BLOCK),
        (4 * BLOCK, BLOCK, BLOCK),
        (3 * BLOCK // 2, BLOCK, 3 * BLOCK // 4),
        (5000, BLOCK, BLOCK),
        (None, 4 * BLOCK, 4 * BLOCK),
        (BLOCK, 4 * BLOCK, 4 * BLOCK),
        (3 * BLOCK, 4 * BLOCK, 3 * BLOCK),
        (BLOCK, 64 << 10, 64 << 10),
    ],
)
def test_blocks_and_pieces_tile(length: int | None, wanted: int, block: int) -> None:
    """Then the fetching thread can prove a piece by itself."""
    assert block_for(length, wanted) == block


def packed(origin: FaultOrigin, **more: object) -> tuple[Job, StreamLander]:
    """A running job that decodes what a slow server sends."""
    sink = Sink(-1, -1, align=1, size=None, hold=0, blank=True)
    lander = StreamLander("gz", sink, qcow2=False)
    mirror = Mirror("http", origin.url("/slow"), max_connections=1)
    return job([mirror], sink, len(CONTENT), lander=lander, **more), lander


def test_a_lander_that_a_job_uses_is_closed_after_its_threads(origin: FaultOrigin) -> None:
    """Its memory must not go while a thread pushes blocks into it."""
    running, lander = packed(origin)
    assert not running.wait(50)
    lander.close()
    assert running.wait(0)
    with pytest.raises(Cancelled):
        running.finish()


def test_a_closed_lander_starts_no_job(origin: FaultOrigin) -> None:
    """What the job would borrow is gone."""
    sink = Sink(-1, -1, align=1, size=None, hold=0, blank=True)
    lander = StreamLander("gz", sink, qcow2=False)
    lander.close()
    mirror = Mirror("http", origin.url("/slow"), max_connections=1)
    with pytest.raises(ValueError, match="closed"):
        job([mirror], sink, len(CONTENT), lander=lander)


def test_an_unknown_digest_starts_no_job(origin: FaultOrigin) -> None:
    """The names are the C core's own."""
    sink = Sink(-1, -1, align=1, size=None, hold=0, blank=True)
    mirror = Mirror("http", origin.url("/slow"), max_connections=1)
    with pytest.raises(ValueError, match="crc32"):
        job([mirror], sink, len(CONTENT), algorithms=["crc32"])


def test_who_makes_sha256_can_be_asked_for() -> None:
    """An operator who trusts OpenSSL alone turns ours off; what is not there is said."""
    name, why = sha256_by()
    assert (name == "openssl") == (why != "ours")
    assert sha256_by("openssl") == ("openssl", "asked")
    assert sha256_by("abacus") == ("openssl", "unknown")
    if why == "ours":
        assert sha256_by(name) == (name, "ours")


@pytest.mark.parametrize("piece", [BLOCK // 4, BLOCK, 2 * BLOCK])
def test_the_files_digest_goes_along_with_the_pieces(
    origin: FaultOrigin, target: int, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Two chains at a time are why both digests cost what one does; nothing else would tell."""
    hashes = b"".join(
        hashlib.sha256(CONTENT[at : at + piece]).digest() for at in range(0, len(CONTENT), piece)
    )
    along = {}
    for maker in ("", "openssl"):
        monkeypatch.setenv("FASTDL_SHA256", maker)
        mirror = Mirror("http", origin.url("/good"), max_connections=1)
        pieces = ("sha-256", piece, hashes)
        sink = file_sink(target)
        running = job([mirror], sink, len(CONTENT), pieces=pieces, max_connections=1)
        assert finish(running)[1] == {"sha-256": hashlib.sha256(CONTENT).digest()}
        along[maker] = running.status()["along_bytes"]
    assert along["openssl"] == 0
    pairs = sha256_by()[0] in ("sha-ni", "armv8")
    # Of a mirror that has shown nothing yet the first piece is checked at once.
    assert along[""] >= (len(CONTENT) - BLOCK if pairs else 0)


@pytest.mark.parametrize("wanted", [True, False])
def test_requests_are_noted_where_somebody_watches(
    origin: FaultOrigin, target: int, wanted: bool
) -> None:
    """Each with its range, its response's, and the connection; each once."""
    mirror = Mirror("http", origin.url("/good"), max_connections=1)
    running = job([mirror], file_sink(target), len(CONTENT), log_requests=wanted)
    finish(running)
    notes, lost = running.requests()
    assert lost == 0
    assert running.requests() == ([], 0)
    sent = [note for note in notes if not note["status"]]
    answered = [note for note in notes if note["status"]]
    assert len(sent) == len(answered) == (mirror.requests if wanted else 0)
    for notes in (sent, answered):
        assert [n["connection"] for n in notes] == [1] * len(notes)
        assert sum(n["last"] - n["first"] + 1 for n in notes) == (len(CONTENT) if wanted else 0)
