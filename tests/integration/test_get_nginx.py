# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl get`` work with an ordinary mirror, and keep its public contract there?

A real nginx, the real command: transports, mirrors, digest fields, the result object, the
progress lines and the probe, as scripts outside this repository rely on them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.errors import SinkIOError
from fastdl.lab.metalink import metalink_of
from tests.env.certs import CertLab
from tests.env.command import Outcome, run_fastdl
from tests.env.nginx import Nginx, start_nginx
from tests.env.origin import pseudo_random

MIB = 1024 * 1024
IMAGE = pseudo_random(11, 12 * MIB + 777)
SMALL = pseudo_random(12, 3 * MIB)
SHA256 = hashlib.sha256(IMAGE).hexdigest()
CHECKSUM = f"{{SHA-256}}{SHA256}"

RESULT_TYPES: dict[str, type | tuple[type, ...]] = {
    "target": str,
    "source_bytes": int,
    "target_bytes": int,
    "fetched_bytes": int,
    "resumed_bytes": int,
    "digests": dict,
    "integrity": str,
    "consistency": str,
    "format": str,
    "seconds": (int, float),
    "stages": dict,
    "bottleneck": (str, type(None)),
    "mirrors": list,
    "warnings": list,
}
MIRROR_TYPES: dict[str, type] = {
    "url": str,
    "bytes": int,
    "requests": int,
    "errors": int,
    "state": str,
}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, certs: CertLab) -> Iterator[Nginx]:
    """One nginx for the module, serving two images."""
    folder = tmp_path_factory.mktemp("nginx")
    with start_nginx(folder, certs, {"image.raw": IMAGE, "small.raw": SMALL}) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the image is to go; its folder holds nothing else."""
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool" / "image.img"


def get(target: Path | str, *words: str, home: Path) -> Outcome:
    """``fastdl get WORDS -o TARGET --json``."""
    return run_fastdl(["get", *words, "-o", str(target), "--json"], home=home / "home")


def check_file(target: Path, content: bytes) -> None:
    """The file holds *content* and nothing lies beside it."""
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert list(target.parent.iterdir()) == [target]


def test_http_in_parallel_ranges(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """The plain case: all bytes, a strong checksum, several connections."""
    words = ("--checksum", CHECKSUM, "--max-connections", "4")
    done = get(target, nginx.url("plain", "image.raw"), *words, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)
    assert done.json["integrity"] == "strong"
    assert done.json["fetched_bytes"] >= len(IMAGE)


@pytest.mark.parametrize("spelling", [CHECKSUM, f"sha-256:{SHA256}", f"sha-256:{SHA256.upper()}"])
def test_both_spellings_of_a_checksum(
    nginx: Nginx, target: Path, tmp_path: Path, spelling: str
) -> None:
    """CloudStack's braces and the colon form, hexadecimal in either case."""
    url = nginx.url("plain", "image.raw")
    assert get(target, url, "--checksum", spelling, home=tmp_path).code == 0
    check_file(target, IMAGE)


def test_https_with_an_own_authority(
    nginx: Nginx, target: Path, tmp_path: Path, certs: CertLab
) -> None:
    """``--cacert`` adds the authority; without it the same server is refused."""
    url = nginx.url("tls", "image.raw")
    refused = get(target, url, home=tmp_path)
    assert (refused.code, refused.classes) == (14, ["TLS_TRUST"]), refused
    assert not list(target.parent.iterdir())
    done = get(
        target, url, "--cacert", str(certs.ca.cert_file), "--checksum", CHECKSUM, home=tmp_path
    )
    assert done.code == 0, done
    check_file(target, IMAGE)


def test_mutual_tls(nginx: Nginx, target: Path, tmp_path: Path, certs: CertLab) -> None:
    """``--cert`` and ``--key`` show the client's identity; without one the server says 400."""
    url, ca = nginx.url("mutual", "image.raw"), ("--cacert", str(certs.ca.cert_file))
    client = certs.leaf("client")
    without = get(target, url, *ca, home=tmp_path)
    assert without.code == 11, without
    identity = ("--cert", str(client.cert_file), "--key", str(client.key))
    done = get(target, url, *ca, *identity, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)


def test_an_obsolete_tls_is_refused(
    nginx: Nginx, target: Path, tmp_path: Path, certs: CertLab
) -> None:
    """T16: at least TLS 1.2, whatever the server would like."""
    url = nginx.url("obsolete", "image.raw")
    refused = get(target, url, "--cacert", str(certs.ca.cert_file), home=tmp_path)
    assert (refused.code, refused.classes) == (14, ["TLS_TRUST"]), refused
    assert not list(target.parent.iterdir())


def test_a_server_without_ranges(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """200 to a ranged request is one stream from the first byte."""
    done = get(target, nginx.url("no-ranges", "image.raw"), "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)


def test_a_redirect_is_followed(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """302 to another port of the same host, with the bytes from there."""
    done = get(target, nginx.url("redirect", "image.raw"), "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)


def test_a_metalink_with_a_fast_and_a_throttled_mirror(
    nginx: Nginx, target: Path, tmp_path: Path
) -> None:
    """The fast mirror carries the load, and the slow one delays nobody."""
    urls = [nginx.url("throttled", "image.raw"), nginx.url("plain", "image.raw")]
    document = metalink_of(IMAGE, urls, name="image.raw")
    nginx.put("image.meta4", document.encode())
    done = get(target, nginx.url("plain", "image.meta4"), home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)
    assert done.json["integrity"] == "strong"
    served = {mirror["url"]: mirror["bytes"] for mirror in done.json["mirrors"]}
    assert served[urls[1]] > served[urls[0]]


def test_typed_mirrors_of_the_same_bytes(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """Several sources are mirrors; one that has no such file costs nothing but a request."""
    urls = [nginx.url("throttled", "gone.raw"), nginx.url("plain", "image.raw")]
    done = get(target, *urls, "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)
    errors = {mirror["url"]: mirror["errors"] for mirror in done.json["mirrors"]}
    assert errors[urls[0]] >= 1


def test_links_and_digest_fields_are_used(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """RFC 6249 and 9530: mirrors from ``Link``, the digest checked without a checksum given."""
    url = nginx.url("links", "image.raw")
    done = get(target, url, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)
    assert done.json["digests"].get("sha-256") == SHA256
    mirrors = {mirror["url"] for mirror in done.json["mirrors"]}
    assert nginx.url("plain", "image.raw") in mirrors
    requests = nginx.access_log.read_text()
    assert requests.count("GET /image.raw") >= 2


def test_the_result_object(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """Every promised field is there, with its type and a value that fits the others."""
    url = nginx.url("plain", "image.raw")
    result = get(target, f"{url}?token=hidden", "--checksum", CHECKSUM, home=tmp_path).json
    check_types(result, RESULT_TYPES)
    assert result["target"] == str(target)
    assert result["source_bytes"] == result["target_bytes"] == len(IMAGE)
    assert result["resumed_bytes"] == 0
    assert result["digests"]["sha-256"] == SHA256
    assert result["integrity"] == "strong"
    assert result["format"] == "raw"
    assert {"fetch", "tls", "hash", "decode", "write", "flush"} <= result["stages"].keys()
    assert all(isinstance(seconds, int | float) for seconds in result["stages"].values())
    assert result["warnings"] == []
    [mirror] = result["mirrors"]
    check_types(mirror, MIRROR_TYPES)
    assert mirror["bytes"] == result["fetched_bytes"]
    assert mirror["requests"] >= 1
    assert mirror["url"].startswith(url)
    assert "hidden" not in json.dumps(result)


def check_types(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Each wanted key is there with a value of its type (a bool is no int)."""
    assert wanted.keys() <= found.keys()
    for key, kind in wanted.items():
        assert isinstance(found[key], kind), (key, found[key])
        assert not isinstance(found[key], bool), key


def test_a_missing_checksum_is_a_warning(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """Allowed, said, and refused where ``--require-checksum`` asks for one."""
    url = nginx.url("plain", "small.raw")
    refused = get(target, url, "--require-checksum", home=tmp_path)
    assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
    done = get(target, url, home=tmp_path)
    assert done.code == 0, done
    assert done.json["integrity"] == "none"
    assert any("checksum" in warning for warning in done.json["warnings"])
    check_file(target, SMALL)


def test_progress_as_json_lines(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """One object a line on standard error, never backwards, ending at the whole."""
    done = get(target, nginx.url("throttled", "small.raw"), "--progress", "json", home=tmp_path)
    assert done.code == 0, done
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert len(lines) >= 2
    assert [line["done"] for line in lines] == sorted(line["done"] for line in lines)
    assert lines[-1]["done"] == lines[-1]["total"] == len(SMALL)
    assert {"done", "total", "fetched", "rate", "eta", "stage"} <= lines[-1].keys()


def test_without_json_standard_output_is_for_people(
    nginx: Nginx, target: Path, tmp_path: Path
) -> None:
    """No object is printed where none was asked for, and no bar where no terminal is."""
    words = ["get", nginx.url("plain", "small.raw"), "-o", str(target)]
    done = run_fastdl(words, home=tmp_path / "home")
    assert done.code == 0, done
    assert not done.stdout.startswith("{")
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_failure_as_json(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """The error object on standard output, one line for people on standard error."""
    failed = get(target, nginx.url("plain", "gone.raw"), home=tmp_path)
    assert (failed.code, failed.classes) == (11, ["HTTP_STATUS"]), failed
    error = failed.json["error"]
    assert (error["code"], error["class"]) == (11, "HTTP_STATUS")
    assert "404" in error["message"]
    assert error["retryable"] is False
    assert not list(target.parent.iterdir())


def test_null_takes_everything_and_keeps_nothing(nginx: Nginx, tmp_path: Path) -> None:
    """``null:`` is for measurements: all bytes come and are hashed, none is written."""
    done = get("null:", nginx.url("plain", "image.raw"), "--checksum", CHECKSUM, home=tmp_path)
    assert done.code == 0, done
    assert done.json["source_bytes"] == len(IMAGE)
    assert done.json["integrity"] == "strong"
    wrong = ("--checksum", f"sha-256:{'0' * 64}")
    assert get("null:", nginx.url("plain", "image.raw"), *wrong, home=tmp_path).code == 21


def test_a_folder_takes_the_name_from_the_url(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """The URL's last segment names the file in an existing folder."""
    done = get(target.parent, nginx.url("plain", "small.raw"), home=tmp_path)
    assert done.code == 0, done
    check_file(target.parent / "small.raw", SMALL)
    assert done.json["target"] == str(target.parent / "small.raw")


def test_a_target_that_holds_the_image_already(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """With a checksum the second run succeeds at once; without one it is refused."""
    words = (nginx.url("plain", "image.raw"), "--checksum", CHECKSUM)
    assert get(target, *words, home=tmp_path).code == 0
    before = target.stat()
    again = get(target, *words, home=tmp_path)
    assert again.code == 0, again
    assert again.json["already_present"] is True
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert get(target, words[0], home=tmp_path).code == 33


def test_a_second_run_flushes_what_the_first_could_not(
    nginx: Nginx, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S02: a folder that cannot be flushed is a failure until it has been, and no new transfer."""
    nginx.put("mib.raw", SMALL[:MIB])
    url = nginx.url("plain", "mib.raw")
    checksum = f"sha-256:{hashlib.sha256(SMALL[:MIB]).hexdigest()}"
    real = os.fsync

    def failing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        for _ in range(2):
            with pytest.raises(SinkIOError, match="is complete, but"):
                fastdl.fetch_sync(url, str(target), checksum=checksum)
            check_file(target, SMALL[:MIB])
    done = fastdl.fetch_sync(url, str(target), checksum=checksum)
    assert (done.already_present, done.fetched_bytes) == (True, 0)
    check_file(target, SMALL[:MIB])


def test_a_rate_limit_is_kept(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """``--limit-rate`` holds over all connections: the job cannot be faster than that."""
    url = nginx.url("plain", "small.raw")
    done = get(target, url, "--limit-rate", "2M", "--max-connections", "4", home=tmp_path)
    assert done.code == 0, done
    check_file(target, SMALL)
    assert done.json["seconds"] >= len(SMALL) / (2 * MIB) * 0.6


def test_options_that_take_units_and_verify(nginx: Nginx, target: Path, tmp_path: Path) -> None:
    """A small window and a read-back change the way, never the bytes."""
    words = ("--window", "16M", "--verify-readback", "--checksum", CHECKSUM)
    done = get(target, nginx.url("plain", "image.raw"), *words, home=tmp_path)
    assert done.code == 0, done
    check_file(target, IMAGE)


@pytest.mark.parametrize(
    "words",
    [("64K",), ("4M",), ("16M", "--window", "128M"), ("2M", "--window", "16M")],
    ids=" ".join,
)
def test_the_block_size_changes_nothing_but_the_way(
    nginx: Nginx, target: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Small and large blocks make the same file, with the digest and with pieces."""
    length = 1 * MIB
    urls = [nginx.url("plain", "image.raw")]
    document = metalink_of(IMAGE, urls, name="image.raw", piece=length)
    nginx.put("pieces.meta4", document.encode())
    options = ("--block-size", *words)
    for source, more in (("image.raw", ("--checksum", CHECKSUM)), ("pieces.meta4", ())):
        done = get(target, nginx.url("plain", source), *options, *more, home=tmp_path)
        assert done.code == 0, done
        check_file(target, IMAGE)
        target.unlink()


def test_a_block_size_that_the_window_cannot_hold_is_refused(
    nginx: Nginx, target: Path, tmp_path: Path
) -> None:
    """Memory is promised by the window: a block size does not quietly exceed it."""
    failed = get(target, nginx.url("plain", "image.raw"), "--block-size", "16M", home=tmp_path)
    assert (failed.code, failed.classes) == (2, ["USAGE"]), failed
    assert "128.0 MiB" in failed.json["error"]["message"]


def test_probe_says_what_registration_needs(nginx: Nginx, tmp_path: Path) -> None:
    """Size, ranges, validators, format and digests, and nothing is written."""
    words = ["probe", nginx.url("links", "image.raw"), "--json"]
    done = run_fastdl(words, home=tmp_path / "home")
    assert done.code == 0, done
    found = done.json
    assert found["size"] == len(IMAGE)
    assert found["ranges"] is True
    assert found["format"] == "raw"
    assert found["validators"]
    assert SHA256 in json.dumps(found["digests"])
    assert [p for p in (tmp_path / "home").rglob("*") if p.is_file()] == []


def test_probe_of_a_missing_file_is_an_error(nginx: Nginx, tmp_path: Path) -> None:
    """The same classes and exit codes as ``get``."""
    words = ["probe", nginx.url("plain", "gone.raw"), "--json"]
    failed = run_fastdl(words, home=tmp_path / "home")
    assert (failed.code, failed.classes) == (11, ["HTTP_STATUS"]), failed
