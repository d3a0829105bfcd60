# SPDX-License-Identifier: Apache-2.0
"""Does every case of the fault matrix end as its file says, with every invariant intact?

Each variant of each file in ``cases`` runs over its transports and sinks with the real
command against real sockets. The invariants hold for all of them: I1 and I4 in
``places.py``; I2 by comparing the target's bytes; I5 as a bound on peak memory; I6 below.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.adversity.casefile import IMAGE, Case, Origin, fill, load_cases, words_for
from tests.adversity.places import open_place
from tests.env.certs import CertLab
from tests.env.command import NAMES, Outcome, run_fastdl
from tests.env.faults import rules_from
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

CANARY = "canary-7f3a-must-never-be-seen"
CANARY_IN_BASE64 = base64.b64encode(f"user:{CANARY}".encode()).decode()
COMMON = ("--retry", "2", "--connect-timeout", "2", "--stall-timeout", "2")
MAX_RSS = 224 * 1024 * 1024
PASSPHRASE = "a-keystore-phrase"

FULL = os.environ.get("FASTDL_FULL_MATRIX", "") not in ("", "0")
"""Every transport with every sink; otherwise each of both once a variant."""

RUNS = [
    pytest.param(case, transport, sink, id=f"{case.id}-{case.name}-{transport}-{sink}")
    for case in load_cases()
    for transport, sink in case.runs(full=FULL)
]


@pytest.mark.parametrize(("case", "transport", "sink"), RUNS)
def test_a_fault_ends_as_its_case_says(
    case: Case,
    transport: str,
    sink: str,
    tmp_path: Path,
    certs: CertLab,
    record_property: Callable[[str, object], None],
) -> None:
    """A fault of the network, the server or the target never becomes a wrong image."""
    record_property("fault-matrix-id", case.id)
    contents = content_of(case)
    right = contents[case.holds - 1]
    with contextlib.ExitStack() as stack:
        origins = [
            stack.enter_context(open_origin(origin, contents, transport, certs))
            for origin in case.origins
        ]
        words = words_for(contents[0], [origin.base for origin in origins])
        words |= {"tmp": str(tmp_path), "canary": CANARY, "passphrase": PASSPHRASE}
        prepare(case, words, origins, tmp_path, certs)
        place = stack.enter_context(
            open_place(sink, tmp_path, kind=case.target, device=case.device, content=right)
        )
        target = place.target.parent if case.target == "folder" else place.target
        command = command_of(case, words, target, transport, certs)
        outcome = run_fastdl(command, home=tmp_path / "home", timeout=case.timeout)
        assert outcome.code in case.expect, outcome
        if outcome.code == 0:
            place.check_done(right)
            check_result(case, outcome)
            left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
            # What a device shows is noted for good, so that the next run knows its own work.
            notes = [path for path in left if path.suffix == ".release"]
            assert len(notes) <= (sink != "file"), notes
            assert left == notes, "a journal or lock was left after success"
        else:
            place.check_failed(code=outcome.code, untouched=case.untouched)
            check_error(case, outcome)
        check_secrets(case, outcome, origins, tmp_path)
        check_requests(case, origins)
        assert outcome.max_rss < MAX_RSS


def content_of(case: Case) -> list[bytes]:
    """The bytes of each version of the case's image."""
    if case.content == "zeros":
        return [bytes(case.size)]
    return [pseudo_random(seed, case.size) for seed in case.origins[0].versions]


@contextlib.contextmanager
def open_origin(
    origin: Origin, contents: list[bytes], transport: str, certs: CertLab
) -> Iterator[FaultOrigin]:
    """Start one origin of a case; its rules are put in later, when every URL is known."""
    versions = [
        Version(
            content=content,
            etag=origin.etag.replace("{version}", str(number)) or None,
            last_modified=origin.last_modified.replace("{version}", str(number)) or None,
        )
        for number, content in enumerate(contents, 1)
    ]
    resource = Resource(versions=versions, headers=list(origin.headers))
    tls = None
    if transport == "https" and not origin.plain:
        tls = certs.leaf(origin.identity).server_context()
        if origin.tls_version:
            tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            tls.maximum_version = ssl.TLSVersion[origin.tls_version]
    with FaultOrigin({IMAGE: resource}, tls=tls, name=origin.name) as server:
        yield server


def prepare(
    case: Case,
    words: Mapping[str, str],
    origins: list[FaultOrigin],
    tmp_path: Path,
    certs: CertLab,
) -> None:
    """Put in what needs the URLs: the rules, the metalink, the files and keystores."""
    for origin, server in zip(case.origins, origins, strict=True):
        resource = server.resources[IMAGE]
        resource.rules = rules_from(fill(origin.rules, words))
        resource.headers = [(name, fill(value, words)) for name, value in origin.headers]
    if case.metalink:
        document = fill(case.metalink, words).encode("utf-8", "surrogateescape")
        (tmp_path / "image.meta4").write_bytes(document)
        resource = Resource.of(document, etag='"meta"', content_type=case.metalink_type)
        origins[0].resources["/image.meta4"] = resource
        origins[0].resources["/described"] = resource
    for name, text in case.files.items():
        path = tmp_path / name
        if text.startswith("jks:"):
            make_keystore(path, certs.leaf(text.removeprefix("jks:")).cert_file)
        else:
            path.write_text(fill(text, words))


def make_keystore(path: Path, certificate: Path) -> None:
    """A keystore made by keytool that trusts *certificate* under the alias ``mirror``."""
    if shutil.which("keytool") is None:
        pytest.skip("keytool is not installed")
    command = ["keytool", "-importcert", "-noprompt", "-alias", "mirror"]
    command += ["-file", str(certificate), "-keystore", str(path), "-storepass", PASSPHRASE]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def command_of(
    case: Case, words: Mapping[str, str], target: Path, transport: str, certs: CertLab
) -> list[str]:
    """The arguments of ``fastdl`` for one run."""
    checksums = {
        "v1": ["--checksum", f"sha-256:{words['sha256']}"],
        "wrong": ["--checksum", f"sha-256:{'0' * 64}"],
        "v2": [],
        "none": [],
    }
    if case.checksum == "v2":
        second = pseudo_random(case.origins[0].versions[1], case.size)
        checksums["v2"] = ["--checksum", f"sha-256:{hashlib.sha256(second).hexdigest()}"]
    trust: list[str] = []
    if transport == "https" and case.trust == "ca":
        trust = ["--cacert", str(certs.ca.cert_file)]
    elif transport == "https" and case.trust != "none":
        trust = ["--cacert", str(certs.leaf(case.trust).cert_file)]
    return [
        *("get", *fill(case.sources, words), "-o", str(target)),
        *("--json", "--progress", "none", "--header", f"X-Api-Key: {CANARY}"),
        *COMMON,
        *checksums[case.checksum],
        *trust,
        *fill(case.options, words),
    ]


def check_result(case: Case, outcome: Outcome) -> None:
    """The result object says what the case promises about a success."""
    result = outcome.json
    assert outcome.classes == []
    assert case.integrity in ("", result["integrity"])
    assert case.warning.lower() in " ".join(result["warnings"]).lower(), result["warnings"]


def check_error(case: Case, outcome: Outcome) -> None:
    """I6: one class, the same in the exit code, on standard error and in the JSON object."""
    assert outcome.classes == [NAMES[outcome.code]], outcome
    error = outcome.json["error"]
    assert (error["code"], error["class"]) == (outcome.code, NAMES[outcome.code])
    assert error["message"]
    assert "Traceback" not in outcome.stderr
    assert case.says.lower() in outcome.stderr.lower()
    if outcome.code in (10, 11, 12, 13):
        assert any(origin.name in outcome.stderr for origin in case.origins), "no host is named"


def check_secrets(case: Case, outcome: Outcome, origins: list[FaultOrigin], tmp_path: Path) -> None:
    """I6: no secret in any output or kept file, nor at an origin that was not typed."""
    assert CANARY not in outcome.stdout + outcome.stderr
    assert CANARY_IN_BASE64 not in outcome.stdout + outcome.stderr
    assert PASSPHRASE not in outcome.stdout + outcome.stderr
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    for path in tmp_path.glob("pool/.*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    for number, origin in enumerate(origins, 1):
        if any(f"{word}{number}}}" in source for source in case.sources for word in ("o", "port")):
            continue
        for request in origin.requests:
            assert CANARY not in str(request), f"a secret reached origin {number}"
            assert not request.fields.keys() & {"authorization", "cookie", "x-api-key", "referer"}


def check_requests(case: Case, origins: list[FaultOrigin]) -> None:
    """What the origins saw: forbidden paths never, and no more requests than allowed."""
    for number, origin in enumerate(origins, 1):
        assert number not in case.unvisited or not origin.requests, f"origin {number} was asked"
        for path in case.never_requested:
            assert not origin.requests_of(path), f"{path} was requested"
        assert len(origin.requests) <= case.max_requests, origin.requests
