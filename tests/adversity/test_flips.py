# SPDX-License-Identifier: Apache-2.0
"""One bit flips on the way from the only mirror there is.

Where pieces tell which bytes are wrong, those are fetched again, once; where nothing tells, the
download ends, and nothing of it is used.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, run
from tests.env.loopdev import loop_device
from tests.env.origin import FaultOrigin, Request, Resource, pseudo_random

SIZE = 24 * MIB
CONTENT = pseudo_random(17, SIZE)
ALONE = ("--max-connections", "1")
"""Nobody fetches a late block a second time, and nothing else is under way at the end: what a busy
machine makes of several connections is counted elsewhere."""


def document(content: bytes, url: str, piece: int, *, whole: bool = True) -> Resource:
    """A metalink of *content* with pieces of *piece* bytes."""
    pieces = "".join(
        f"<hash>{hashlib.sha256(content[at : at + piece]).hexdigest()}</hash>"
        for at in range(0, len(content), piece)
    )
    digest = f"<hash type='sha-256'>{hashlib.sha256(content).hexdigest()}</hash>" if whole else ""
    text = (
        "<metalink xmlns='urn:ietf:params:xml:ns:metalink'><file name='i'>"
        f"<size>{len(content)}</size>{digest}"
        f"<pieces length='{piece}' type='sha-256'>{pieces}</pieces><url>{url}</url>"
        "</file></metalink>"
    )
    return Resource.of(text.encode(), content_type="application/metalink4+xml")


class Flipping:
    """An origin with one file, whose bytes at *at* are wrong in its first *times* responses."""

    def __init__(self, origin: FaultOrigin, content: bytes, at: list[int], times: int) -> None:
        self.origin = origin
        self.url = origin.url("/i")
        self._left = dict.fromkeys(at, times)
        self._seen = 0
        self.resource = Resource.of(content, rules=[Rule(corrupt=where) for where in at])
        origin.resources["/i"] = self.resource
        origin.on_sent = self._sent

    def _sent(self, _total: int) -> None:
        """The rules are applied to a response as a whole, before its first byte goes out."""
        for request in self.requests[self._seen :]:
            for at in self._left:
                self._left[at] -= covers(request, at)
        self._seen = len(self.requests)
        self.resource.rules[:] = [Rule(corrupt=at) for at, left in self._left.items() if left > 0]

    @property
    def requests(self) -> list[Request]:
        return self.origin.requests_of("/i")

    def fetched(self, at: int) -> int:
        """How many requests covered the byte *at*."""
        return sum(covers(request, at) for request in self.requests)


def covers(request: Request, at: int) -> bool:
    first, last = request.range or (0, None)
    return (first or 0) <= at and (last is None or at <= last)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({}) as served:
        yield served


def get(tmp_path: Path, source: str, target: Path | str, *more: str) -> Outcome:
    words = ["get", source, "-o", str(target), "--json", "--progress", "none", *more]
    return run_fastdl(words, home=tmp_path / "home", timeout=60)


@pytest.mark.parametrize("piece", [256 << 10, MIB, 3 * MIB, 20 * MIB], ids=lambda n: f"{n >> 10}K")
@pytest.mark.parametrize("at", [100, 9 * MIB + 5, SIZE - 1], ids=["head", "middle", "tail"])
@pytest.mark.parametrize("whole", [True, False], ids=["digest", "pieces"])
def test_a_bit_that_flips_once_is_fetched_again(
    origin: FaultOrigin, tmp_path: Path, piece: int, at: int, whole: bool
) -> None:
    """One piece is fetched twice, whatever its size and place; the rest once."""
    flipping = Flipping(origin, CONTENT, [at], 1)
    origin.resources["/m"] = document(CONTENT, flipping.url, piece, whole=whole)
    target = tmp_path / "target"
    done = get(tmp_path, origin.url("/m"), target, "--window", "64M")
    assert done.code == 0, done
    assert target.read_bytes() == CONTENT
    assert flipping.fetched(at) >= 2
    twice = origin.sent - SIZE
    assert twice <= piece + 12 * MIB  # and what was under way


def test_a_bit_that_flips_in_each_piece_costs_each_once(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    at = list(range(MIB // 2, SIZE, MIB))
    flipping = Flipping(origin, CONTENT, at, 1)
    origin.resources["/m"] = document(CONTENT, flipping.url, MIB)
    done = get(tmp_path, origin.url("/m"), tmp_path / "target")
    assert done.code == 0, done
    assert origin.sent < SIZE * 2.2


@pytest.mark.parametrize("piece", [MIB, 20 * MIB], ids=["1M", "20M"])
def test_a_piece_that_stays_wrong_ends_the_download_and_the_rest_is_kept(
    origin: FaultOrigin, tmp_path: Path, piece: int
) -> None:
    """21 after the second time; the next run fetches what was wrong, and little else."""
    at = 21 * MIB + 7
    flipping = Flipping(origin, CONTENT, [at], 1000)
    origin.resources["/m"] = document(CONTENT, flipping.url, piece)
    target = tmp_path / "target"
    failed = get(tmp_path, origin.url("/m"), target, *ALONE)
    assert (failed.code, failed.classes) == (21, ["INTEGRITY"]), failed
    assert json.loads(failed.stdout)["error"]["reason"] == "wrong-piece"
    assert not target.exists()
    assert flipping.fetched(at) == 2
    flipping.resource.rules.clear()
    origin.on_sent = None
    done = get(tmp_path, origin.url("/m"), target)
    assert done.code == 0, done
    assert target.read_bytes() == CONTENT
    assert done.json["fetched_bytes"] <= piece + 4 * MIB, done


def test_a_wrong_digest_alone_is_no_reason_to_fetch_all_again(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """Nothing tells which bytes are wrong, and most wrong digests are wrong as they were typed."""
    flipping = Flipping(origin, CONTENT, [9 * MIB], 1)
    digest = f"sha-256:{hashlib.sha256(CONTENT).hexdigest()}"
    target = tmp_path / "target"
    failed = get(tmp_path, flipping.url, target, "--checksum", digest, *ALONE)
    assert (failed.code, failed.classes) == (21, ["INTEGRITY"]), failed
    assert flipping.fetched(9 * MIB) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "run-" not in path.name) == ["home"]
    assert get(tmp_path, flipping.url, target, "--checksum", digest).code == 0


@pytest.mark.parametrize("where", ["header", "l1", "l2", "data"])
def test_an_image_that_is_converted_survives_one_flipped_bit(
    origin: FaultOrigin, tmp_path: Path, where: str
) -> None:
    """Its map may have been made of the wrong bytes: then the attempt is made again."""
    if not HAVE_QEMU:
        pytest.skip(NEED_QEMU)
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(CONTENT)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    content = image.read_bytes()
    (l1,) = struct.unpack_from(">Q", content, 40)
    l2 = struct.unpack_from(">Q", content, l1)[0] & ((1 << 56) - 1)
    at = {"header": 100, "l1": l1 + 7, "l2": l2 + 5, "data": 5 * MIB}[where]
    flipping = Flipping(origin, content, [at], 1)
    origin.resources["/m"] = document(content, flipping.url, MIB)
    with loop_device(tmp_path, size=SIZE) as device:
        done = get(tmp_path, origin.url("/m"), device.path)
        assert done.code == 0, done
        assert device.read() == CONTENT
