# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl get`` take a checksum from where publishers put it, and believe whom it should?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.engine.api import fetch_sync, probe_sync
from fastdl.engine.result import Result
from fastdl.errors import (
    ChecksumListError,
    HttpStatusError,
    IntegrityError,
    LimitError,
    NetError,
    PolicyError,
    UsageError,
)
from fastdl.lab import metalink as lab
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.openpgp import Publisher, publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(15, 3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
SUMS = f"{OTHER} *a.img\n{SHA256} *i.img\n".encode()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/d/i.img": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture(scope="module")
def gpg() -> Iterator[Publisher]:
    with publisher() as made:
        yield made


@pytest.fixture
def keyring(tmp_path: Path, gpg: Publisher) -> str:
    """A file with the key "one", as an admin would save it."""
    path = tmp_path / "publisher.asc"
    path.write_bytes(gpg.keyring("one", armored=True))
    return str(path)


def put(origin: FaultOrigin, **files: bytes) -> None:
    """Serve *files* in the image's folder; ``__`` in a name is a dot."""
    for name, data in files.items():
        origin.resources[f"/d/{name.replace('__', '.')}"] = Resource.of(data)


def get(origin: FaultOrigin, tmp_path: Path, **options: Any) -> Result:
    """Fetch the image; nothing may be left where that fails."""
    target = tmp_path / "out.img"
    target.unlink(missing_ok=True)
    try:
        result = fetch_sync(origin.url("/d/i.img"), target, **({"retry": 0} | options))
    except BaseException:
        assert not target.exists()
        raise
    assert target.read_bytes() == CONTENT
    return result


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", SUMS),
        ("SHA512SUMS", f"{SHA512}  ./i.img\n".encode()),
        ("CHECKSUM", f"# i.img: 1 bytes\nSHA256 (i.img) = {SHA256}\n".encode()),
        ("i.img.sha256", SHA256.encode()),
        ("i.img.sha512", f"{SHA512}  i.img\n".encode()),
    ],
)
def test_a_list_that_the_command_names_decides(
    origin: FaultOrigin, tmp_path: Path, name: str, text: bytes
) -> None:
    """By URL or path; a wrong entry is a wrong digest."""
    origin.resources[f"/d/{name}"] = Resource.of(text)
    (tmp_path / name).write_bytes(text)
    for reference in (origin.url(f"/d/{name}"), str(tmp_path / name)):
        result = get(origin, tmp_path, checksum=reference)
        assert (result.integrity, result.signed_by) == ("strong", None)
        assert set(result.digests) == {"sha-512" if "512" in name else "sha-256"}
    bad = text.replace(SHA256.encode(), OTHER.encode()).replace(SHA512.encode(), b"0" * 128)
    origin.resources[f"/d/{name}"] = Resource.of(bad)
    with pytest.raises(IntegrityError, match="the checksum list says"):
        get(origin, tmp_path, checksum=origin.url(f"/d/{name}"))


def test_a_list_that_does_not_decide_fetches_nothing(origin: FaultOrigin, tmp_path: Path) -> None:
    """The command asked for a proof; without one it is not half done."""
    put(
        origin,
        empty=b"",
        page=b"<html>not found</html>",
        two=SUMS + f"{OTHER}  i.img\n".encode(),
        none=f"{OTHER}  a.img\n".encode(),
        large=b"#" * (5 << 20),
    )
    for name in ("empty", "page", "two", "none"):
        with pytest.raises(ChecksumListError):
            get(origin, tmp_path, checksum=origin.url(f"/d/{name}"))
    with pytest.raises(LimitError):
        get(origin, tmp_path, checksum=origin.url("/d/large"))
    with pytest.raises(HttpStatusError):
        get(origin, tmp_path, checksum=origin.url("/d/absent"))
    with pytest.raises(NetError):
        get(origin, tmp_path, checksum=str(tmp_path / "absent.txt"))
    with pytest.raises(UsageError):
        get(origin, tmp_path, checksum="sha-256:xyz")
    assert not origin.requests_of("/d/i.img")


def test_an_entry_of_another_name_is_named_behind_the_url(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """An alias ("current", "latest") has not the name that its list knows."""
    put(origin, SHA256SUMS=f"{SHA256}  build-42.img\n".encode())
    url = origin.url("/d/SHA256SUMS")
    with pytest.raises(ChecksumListError, match=r"does not name 'i\.img'"):
        get(origin, tmp_path, checksum=url)
    assert get(origin, tmp_path, checksum=f"{url}#build-42.img").integrity == "strong"


def test_a_weak_list_is_said_to_be_weak(origin: FaultOrigin, tmp_path: Path) -> None:
    """It was asked for, and it finds accidents."""
    put(origin, MD5SUMS=f"{hashlib.md5(CONTENT).hexdigest()}  i.img\n".encode())
    result = get(origin, tmp_path, checksum=origin.url("/d/MD5SUMS"))
    assert result.integrity == "weak"
    assert any("finds accidents" in warning for warning in result.warnings)


def test_a_list_beside_the_image_is_found_and_is_the_origins_word(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """Whoever can change the image there can change the list."""
    put(origin, SHA256SUMS=f"{OTHER}  a.img\n".encode(), i__img__sha256=SHA256.encode())
    result = get(origin, tmp_path, discover=True)
    assert (result.integrity, result.digests) == ("weak", {"sha-256": SHA256})
    assert any("i.img.sha256" in warning for warning in result.warnings)
    put(origin, i__img__sha256=OTHER.encode())
    with pytest.raises(IntegrityError):
        get(origin, tmp_path, discover=True)
    put(origin, SHA256SUMS=f"{OTHER}  i.img\n{SHA256}  i.img\n".encode())
    with pytest.raises(ChecksumListError):
        get(origin, tmp_path, discover=True)


def test_where_no_list_is_found_the_download_says_so(origin: FaultOrigin, tmp_path: Path) -> None:
    """Pages that answer 200 to everything are no lists."""
    origin.resources["/d/SHA512SUMS"] = Resource.of(b"<html>welcome</html>")
    result = get(origin, tmp_path, discover=True)
    assert result.integrity == "none"
    assert any("no checksum list" in warning for warning in result.warnings)
    with pytest.raises(PolicyError):
        get(origin, tmp_path, discover=True, require_checksum=True)


def test_a_list_beside_a_file_is_found(tmp_path: Path) -> None:
    """A folder that was copied from a mirror."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "i.img").write_bytes(CONTENT)
    (folder / "SHA256SUMS").write_bytes(SUMS)
    result = fetch_sync(folder / "i.img", tmp_path / "out", discover=True)
    assert result.digests == {"sha-256": SHA256}


def test_signed_lists_are_strong_and_name_the_signer(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """Whether the signature lies beside the list or around it, named or found."""
    put(
        origin,
        SHA256SUMS=SUMS,
        SHA256SUMS__gpg=gpg.detached(SUMS, "one"),
        CHECKSUM=gpg.clearsigned(f"SHA256 (i.img) = {SHA256}\n".encode(), "one"),
    )
    who = f"one <one@publisher.example> ({gpg.fingerprint('one')})"
    for options in (
        {"checksum": origin.url("/d/SHA256SUMS")},
        {"checksum": origin.url("/d/CHECKSUM")},
        {"discover": True},
    ):
        result = get(origin, tmp_path, keyring=keyring, **options)
        assert (result.integrity, result.signed_by) == ("strong", who)
    found = probe_sync(origin.url("/d/i.img"), discover=True, keyring=keyring)
    assert (found.signed_by, found.digests) == (who, {"sha-256": SHA256})


def test_a_clearsigned_list_is_read_without_a_keyring_too(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher
) -> None:
    """Fedora's and SUSE's lists have no other form."""
    signed = gpg.clearsigned(f"SHA256 (i.img) = {SHA256}\n".encode(), "one")
    put(origin, CHECKSUM=signed, bad=f"{SHA256}  i.img\n".encode() + signed)
    assert get(origin, tmp_path, checksum=origin.url("/d/CHECKSUM")).signed_by is None
    with pytest.raises(ChecksumListError, match="not signed"):
        get(origin, tmp_path, checksum=origin.url("/d/bad"))


def test_with_a_keyring_nothing_unsigned_counts(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """No signature, a wrong one, one by somebody else, an entry put beside the signed part."""
    url = origin.url("/d/SHA256SUMS")
    put(origin, SHA256SUMS=SUMS)
    with pytest.raises(PolicyError, match="no signature"):
        get(origin, tmp_path, checksum=url, keyring=keyring)
    put(origin, SHA256SUMS__asc=gpg.detached(SUMS, "other", armored=True))
    with pytest.raises(IntegrityError, match="the keyring does not have"):
        get(origin, tmp_path, checksum=url, keyring=keyring)
    put(origin, SHA256SUMS__asc=gpg.detached(SUMS + b"\n", "one", armored=True))
    with pytest.raises(IntegrityError, match="is wrong"):
        get(origin, tmp_path, checksum=url, keyring=keyring)
    forged = gpg.clearsigned(f"{OTHER}  i.img\n".encode(), "one")
    put(origin, SHA256SUMS=forged.replace(OTHER.encode(), SHA256.encode()))
    with pytest.raises(IntegrityError, match="is wrong"):
        get(origin, tmp_path, checksum=url, keyring=keyring)
    for options in ({}, {"discover": True}, {"checksum": f"sha-256:{SHA256}"}):
        origin.resources.pop("/d/SHA256SUMS", None)
        with pytest.raises(PolicyError, match="nothing that is signed"):
            get(origin, tmp_path, keyring=keyring, **options)
    put(origin, MD5SUMS=gpg.clearsigned(f"{'0' * 32}  i.img\n".encode(), "one"))
    with pytest.raises(PolicyError, match="collisions"):
        get(origin, tmp_path, checksum=origin.url("/d/MD5SUMS"), keyring=keyring)


def test_a_metalink_is_signed_beside_it(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """Typed by its name, or recognised by its media type."""
    text = lab.metalink("i", [origin.url("/d/i.img")], size=len(CONTENT), sha256=SHA256).encode()
    origin.resources["/i.meta4"] = Resource.of(text)
    origin.resources["/dyn"] = Resource.of(text, content_type="application/metalink4+xml")
    for path in ("/i.meta4", "/dyn"):
        target = tmp_path / "out"
        target.unlink(missing_ok=True)
        with pytest.raises(PolicyError, match="no signature"):
            fetch_sync(origin.url(path), target, keyring=keyring, retry=0)
        origin.resources[f"{path}.sig"] = Resource.of(gpg.detached(text, "one"))
        result = fetch_sync(origin.url(path), target, keyring=keyring, retry=0)
        assert result.integrity == "strong"
        assert result.signed_by is not None
        assert target.read_bytes() == CONTENT


def test_mirrors_of_one_file_have_one_digest(origin: FaultOrigin, tmp_path: Path) -> None:
    """A list that names both sources differently says that they are none."""
    origin.resources["/e/j.img"] = Resource.of(CONTENT)
    sources = [origin.url("/d/i.img"), origin.url("/e/j.img")]
    for second, works in ((SHA256, True), (OTHER, False)):
        put(origin, S__txt=f"{SHA256}  i.img\n{second}  j.img\n".encode())
        target = tmp_path / f"out{works}"
        if works:
            assert fetch_sync(sources, target, checksum=origin.url("/d/S.txt")).integrity
        else:
            with pytest.raises(ChecksumListError, match="not mirrors"):
                fetch_sync(sources, target, checksum=origin.url("/d/S.txt"))


def test_the_list_is_asked_once_however_often_the_image_fails(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """A second attempt is about the bytes; what they must be is known."""
    put(origin, SHA256SUMS=SUMS)
    origin.resources["/e/i.img"] = Resource.of(bytes(len(CONTENT)))
    sources = [origin.url("/e/i.img"), origin.url("/d/i.img")]
    fetch_sync(sources, tmp_path / "out", checksum=origin.url("/d/SHA256SUMS"))
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert len(origin.requests_of("/d/SHA256SUMS")) == 1


def test_a_target_that_is_there_is_compared_with_the_list(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """The same command twice fetches nothing the second time."""
    put(origin, SHA256SUMS=SUMS)
    target = tmp_path / "out"
    for there in (False, True):
        result = fetch_sync(origin.url("/d/i.img"), target, checksum=origin.url("/d/SHA256SUMS"))
        assert (result.already_present, result.integrity) == (there, "strong")


def test_the_strict_policy_reads_no_local_list(tmp_path: Path) -> None:
    """A tenant's command must not read the host's files."""
    with pytest.raises(UsageError, match="http or https"):
        fetch_sync(
            "http://192.0.2.1/i.img", tmp_path / "o", checksum="/etc/passwd.txt", policy="strict"
        )
    with pytest.raises(PolicyError):
        fetch_sync(
            "http://192.0.2.1/i.img",
            tmp_path / "o",
            checksum="http://127.0.0.1:9/SHA256SUMS",
            policy="strict",
            retry=0,
        )


def test_the_command_line_says_who_signed(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """For people and for programs."""
    put(origin, SHA256SUMS=SUMS, SHA256SUMS__gpg=gpg.detached(SUMS, "one"))
    url, target = origin.url("/d/i.img"), tmp_path / "out"
    words = ["get", url, "-o", str(target), "--discover", "--keyring", keyring]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == 0, done.stderr
    assert (
        f"integrity strong, signed by one <one@publisher.example> ({gpg.fingerprint('one')})"
        in (done.stdout)
    )
    target.unlink()
    done = run_fastdl([*words, "--json"], home=tmp_path)
    assert json.loads(done.stdout)["signed_by"].startswith("one <")
    done = run_fastdl(["probe", url, "--discover", "--keyring", keyring], home=tmp_path)
    assert done.code == 0, done.stderr
    assert f"signed by     one <one@publisher.example> ({gpg.fingerprint('one')})" in done.stdout
    put(origin, SHA256SUMS=b"\n" + SUMS)
    target.unlink()
    assert run_fastdl(words, home=tmp_path).code == IntegrityError.exit_code
    put(origin, page=b"<html>")
    words = ["get", url, "-o", str(target), "--checksum", origin.url("/d/page#x")]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == ChecksumListError.exit_code


def test_a_list_in_pieces_or_without_ranges_is_read(origin: FaultOrigin, tmp_path: Path) -> None:
    """Lists are made on the fly too: chunked, without a length."""
    origin.resources["/d/SHA256SUMS"] = Resource.of(
        SUMS, rules=[Rule(ignore_range=True, chunked="right")]
    )
    result = get(origin, tmp_path, checksum=origin.url("/d/SHA256SUMS"))
    assert result.integrity == "strong"
