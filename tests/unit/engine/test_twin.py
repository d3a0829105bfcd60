# SPDX-License-Identifier: Apache-2.0
"""Does the engine bring the same bytes, digests and errors as its plain twin?"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import fastdl
from fastdl.errors import FastdlError, FormatError, IntegrityError
from fastdl.lab.metalink import metalink_of
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.unit.engine.twin import fetch_reference

MiB = 1 << 20
EDGES = [0, 1, 4095, 65535, 65536, 65537, MiB - 1, MiB, MiB + 1, 2 * MiB, 3 * MiB + 17]
PIECES = [None, 16384, 65536, 100_000, MiB, 3 * MiB // 2, 2 * MiB]
KINDS = ["ranges", "whole", "chunked"]
FAULTS = ["none", "none", "corrupt", "missing", "longer", "cut"]
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Case:
    """One source as its mirrors show it: (kind of server, what is wrong with it)."""

    size: int
    piece: int | None
    mirrors: list[tuple[str, str]]
    metalink: bool


cases = st.builds(
    Case,
    size=st.sampled_from(EDGES) | st.integers(0, 3 * MiB),
    piece=st.sampled_from(PIECES),
    mirrors=st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(FAULTS)), min_size=1, max_size=3
    ),
    metalink=st.booleans(),
)


@pytest.fixture(scope="module")
def origin() -> Iterator[FaultOrigin]:
    """One server for all examples; each has paths of its own."""
    with FaultOrigin() as server:
        yield server


def rules(kind: str, fault: str, size: int) -> list[Rule]:
    """What the server does to every answer of one mirror."""
    ways = {"ranges": {}, "whole": {"ignore_range": True}, "chunked": {"chunked": "right"}}
    what: dict[str, dict[str, object]] = {
        "none": {},
        "corrupt": {"corrupt": size // 2},
        "missing": {"status": 404},
        "longer": {},
        "cut": {"body_cut": size // 2},
    }
    way = dict(ways[kind])
    if kind == "chunked":
        way["ignore_range"] = True
    # A missing file's answer has no chunks; a cut one is cut whatever its coding.
    return [Rule(when=When(), **(what[fault] if fault == "missing" else way | what[fault]))]


def show(origin: FaultOrigin, case: Case, folder: Path) -> tuple[list[str], str]:
    """Put the case's mirrors up; (sources, SHA-256 of the right bytes)."""
    content = pseudo_random(case.size % 7 + 1, case.size)
    urls = []
    for kind, fault in case.mirrors:
        path = f"/{next(NUMBERS)}/image"
        shown = content + b"x" if fault == "longer" else content
        origin.resources[path] = Resource.of(shown, rules=rules(kind, fault, case.size))
        urls.append(origin.url(path))
    digest = hashlib.sha256(content).hexdigest()
    if not case.metalink:
        return urls, digest
    document = folder / "image.meta4"
    piece = case.piece if case.size > 0 else None
    document.write_text(metalink_of(content, urls, piece=piece))
    return [str(document)], digest


def outcome(what: object) -> type:
    return type(what) if isinstance(what, FastdlError) else bytes


def lone_liar(case: Case) -> bool:
    """Only the whole digest can tell, and perhaps one mirror alone gave the bytes.

    What is to happen then is test_a_liar_that_served_alone_is_left_out's.
    """
    return len(case.mirrors) > 1 and any(f in ("corrupt", "longer") for _, f in case.mirrors)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=cases)
@example(case=Case(0, None, [("chunked", "none")], False))
@example(case=Case(MiB, None, [("chunked", "none")], False))
@example(case=Case(3 * MiB, 2 * MiB, [("ranges", "corrupt"), ("ranges", "none")], True))
@example(case=Case(2 * MiB, None, [("ranges", "corrupt"), ("whole", "none")], False))
@example(case=Case(MiB + 1, None, [("whole", "longer")], True))
@example(case=Case(1, None, [("chunked", "longer")], True))
@example(case=Case(64 << 10, None, [("chunked", "longer")], True))
@example(case=Case(MiB - 1, None, [("chunked", "cut")], False))
@example(case=Case(3 * MiB, None, [("chunked", "cut")], False))
@example(case=Case(MiB - 1, None, [("chunked", "cut"), ("ranges", "none")], False))
@example(
    case=Case(MiB + 1, None, [("ranges", "missing"), ("chunked", "none"), ("whole", "none")], False)
)
def test_engine_and_twin_agree(
    case: Case, origin: FaultOrigin, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Speed must change nothing: bytes, digests and the class of a refusal stay the same."""
    folder = tmp_path_factory.mktemp("twin")
    sources, digest = show(origin, case, folder)
    got: list[object] = []
    for name in ("engine", "twin"):
        try:
            if name == "twin":
                result: object = fetch_reference(sources, folder / name, checksum=digest)
            else:
                result = fastdl.fetch_sync(
                    sources, folder / name, checksum=digest, retry=1, stall_timeout=5.0
                )
        except FastdlError as exc:
            result = exc
        got.append(result)
    engine, twin = got
    for name, result in (("engine", engine), ("twin", twin)):
        path = folder / name
        if isinstance(result, FastdlError):
            assert not path.exists()
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert result.digests == {"sha-256": digest}  # type: ignore[attr-defined]
        assert result.source_bytes == case.size  # type: ignore[attr-defined]
        assert result.integrity == "strong"  # type: ignore[attr-defined]
    if not isinstance(twin, FastdlError):
        assert not isinstance(engine, FastdlError) or lone_liar(case), engine
    elif isinstance(engine, FormatError):
        assert case.size == 0  # an empty image is refused before its size is looked at
    elif isinstance(engine, FastdlError) and len(case.mirrors) == 1:
        assert outcome(engine) is outcome(twin), (engine, twin)
    else:
        # The twin gives up where the engine goes on after a cut, or joins good parts.
        faults = {fault for _, fault in case.mirrors}
        assert isinstance(engine, FastdlError) or faults & {"cut", "corrupt"}


def test_a_liar_that_served_alone_is_left_out(origin: FaultOrigin, tmp_path: Path) -> None:
    """A mirror whose bytes are wrong must not keep a good one, that gave none, from its turn."""
    case = Case(50_000, None, [("ranges", "corrupt"), ("ranges", "none")], metalink=True)
    sources, digest = show(origin, case, tmp_path)
    fetch_reference(sources, tmp_path / "twin")
    fastdl.fetch_sync(sources, tmp_path / "engine", checksum=digest)
    assert (tmp_path / "engine").read_bytes() == (tmp_path / "twin").read_bytes()


def test_a_wrong_checksum_is_one_class_for_both(origin: FaultOrigin, tmp_path: Path) -> None:
    """The oracle must be able to refuse."""
    sources, _ = show(origin, Case(100_000, None, [("ranges", "none")], False), tmp_path)
    for fetch in (fastdl.fetch_sync, fetch_reference):
        with pytest.raises(IntegrityError):
            fetch(sources, tmp_path / "x", checksum="sha-256:" + "0" * 64)
        assert not (tmp_path / "x").exists()


def test_local_files_agree(tmp_path: Path) -> None:
    """A path is a source like any other."""
    source = tmp_path / "source"
    source.write_bytes(pseudo_random(5, 2 * MiB + 3))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    for fetch, name in ((fastdl.fetch_sync, "a"), (fetch_reference, "b")):
        result = fetch(str(source), tmp_path / name, checksum=digest)
        assert (tmp_path / name).read_bytes() == source.read_bytes()
        assert result.source_bytes == 2 * MiB + 3
