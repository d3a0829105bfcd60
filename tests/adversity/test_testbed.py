# SPDX-License-Identifier: Apache-2.0
"""Can the fault matrix fail? The server is right by default, and each invariant bites.

curl is the witness for the server; for the invariants the test does the wrong itself.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.adversity.casefile import load_cases
from tests.adversity.places import MIB, FilePlace, LoopPlace, loop_device
from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

IMAGE = pseudo_random(31, 300_000)


def curl(*words: str) -> subprocess.CompletedProcess[bytes]:
    """curl with these words, its output as bytes."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(["curl", "-sS", "-m", "10", *words], capture_output=True, check=False)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_without_rules_the_origin_is_right(scheme: str, certs: CertLab) -> None:
    """A fault found with this server is the fault of its rule, never of the server."""
    tls = certs.leaf("good").server_context() if scheme == "https" else None
    with FaultOrigin({"/a": Resource.of(IMAGE)}, tls=tls) as origin:
        trust = ("--cacert", str(certs.ca.cert_file))
        assert curl(*trust, origin.url("/a")).stdout == IMAGE
        assert curl(*trust, "-r", "5-10", origin.url("/a")).stdout == IMAGE[5:11]
        assert curl(*trust, "-r", "-7", origin.url("/a")).stdout == IMAGE[-7:]
        assert curl(*trust, "-r", "0-1", *[origin.url("/a")] * 2).stdout == IMAGE[:2] * 2
        first, second = origin.requests_of("/a")[-2:]
        assert first.connection == second.connection, "the connection is kept"
        beyond = curl(*trust, "-i", "-r", "300000-", origin.url("/a")).stdout
        assert beyond.startswith(b"HTTP/1.1 416 ")
        assert b"Content-Range: bytes */300000" in beyond
        assert curl(*trust, "-I", origin.url("/a")).stdout.startswith(b"HTTP/1.1 200 ")
        assert curl(*trust, "-i", origin.url("/b")).stdout.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(("tag", "status"), [('"v1"', b"206"), ('"old"', b"200")])
def test_if_range_decides_between_part_and_whole(tag: str, status: bytes) -> None:
    """RFC 9110, 13.1.5: the range counts only while the validator matches."""
    with FaultOrigin({"/a": Resource.of(IMAGE)}) as origin:
        answer = curl("-i", "-r", "1-2", "-H", f"If-Range: {tag}", origin.url("/a")).stdout
    assert answer.split()[1] == status


def test_a_rule_applies_when_its_condition_holds_and_only_then() -> None:
    """The second request gets the other version, and so does everybody after it."""
    versions = [Version(content=b"old", etag='"1"'), Version(content=b"new", etag='"2"')]
    rule = Rule(when=When(first_nth=2, last_nth=2), version=2)
    resource = Resource(versions=versions, rules=[rule])
    with FaultOrigin({"/a": resource}) as origin:
        assert [curl(origin.url("/a")).stdout for _ in range(3)] == [b"old", b"new", b"new"]


def test_every_case_id_of_the_matrix_has_a_file() -> None:
    """A forgotten id would look like a passed one."""
    ids = {case.id for case in load_cases()}
    wanted = {f"H{n:02}" for n in range(1, 31)} | {f"M{n:02}" for n in range(1, 14)}
    wanted |= {f"T{n:02}" for n in (*range(1, 14), 15, 16, 18)}
    wanted |= {f"S{n:02}" for n in (1, 4, 5, 6, 7, 9, 11, 14)}
    assert ids == wanted


def test_names_of_variants_are_unique() -> None:
    """Two variants of one name would hide each other in a report."""
    names = [(case.id, case.name) for case in load_cases()]
    assert len(names) == len(set(names))


def test_a_file_published_by_a_failed_command_is_noticed(tmp_path: Path) -> None:
    """I1 for files."""
    place = FilePlace(tmp_path, "absent", IMAGE)
    place.target.write_bytes(IMAGE)
    with pytest.raises(AssertionError, match="published"):
        place.check_failed(code=10, untouched=False)


def test_a_part_left_behind_is_noticed(tmp_path: Path) -> None:
    """I4: it may stay only after an error that another attempt can mend."""
    place = FilePlace(tmp_path, "absent", IMAGE)
    (place.folder / ".image.img.part").write_bytes(b"x")
    place.check_failed(code=10, untouched=False)
    with pytest.raises(AssertionError, match="left behind"):
        place.check_failed(code=21, untouched=False)


def test_a_changed_neighbour_is_noticed(tmp_path: Path) -> None:
    """I4: nothing but the target changes."""
    place = FilePlace(tmp_path, "absent", IMAGE)
    place.target.write_bytes(IMAGE)
    place.check_done(IMAGE)
    (place.folder / "neighbour.raw").write_bytes(b"changed")
    with pytest.raises(AssertionError, match="beside the target"):
        place.check_done(IMAGE)


def test_wrong_bytes_after_success_are_noticed(tmp_path: Path) -> None:
    """I2: one flipped bit is enough."""
    place = FilePlace(tmp_path, "absent", IMAGE)
    place.target.write_bytes(IMAGE[:-1] + bytes([IMAGE[-1] ^ 1]))
    with pytest.raises(AssertionError, match="other bytes"):
        place.check_done(IMAGE)


def test_a_valid_head_on_a_failed_device_is_noticed(tmp_path: Path) -> None:
    """I1 for devices: old content or zeroed head and tail, nothing between."""
    with loop_device(tmp_path, {"size": 4 * MIB}, MIB) as node:
        place = LoopPlace(node)
        place.check_failed(code=21, untouched=True)
        with open(node, "r+b") as device:
            device.write(bytes(MIB))
            device.seek(3 * MIB)
            device.write(bytes(MIB))
        place.check_failed(code=21, untouched=False)
        with pytest.raises(AssertionError, match="was written"):
            place.check_failed(code=33, untouched=True)
        with open(node, "r+b") as device:
            device.write(b"a boot sector")
        with pytest.raises(AssertionError, match="head is not zero"):
            place.check_failed(code=21, untouched=False)
