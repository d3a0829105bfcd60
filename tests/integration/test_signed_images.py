# SPDX-License-Identifier: Apache-2.0
"""Is an image that its publisher signed itself published only if the signature is right?"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.api import fetch_sync, probe_sync
from fastdl.errors import IntegrityError, PolicyError
from fastdl.lab import metalink as lab
from tests.env.command import run_fastdl
from tests.env.openpgp import Publisher, publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.signers import signers

CONTENT = pseudo_random(31, 3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


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
    path = tmp_path / "publisher.asc"
    path.write_bytes(gpg.keyring("one", armored=True))
    return str(path)


def put(origin: FaultOrigin, path: str, data: bytes) -> None:
    origin.resources[path] = Resource.of(data)


@pytest.mark.parametrize("suffix", [".sig", ".asc"])
def test_a_signature_beside_the_image_is_enough(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str, suffix: str
) -> None:
    """And a wrong one leaves nothing behind, whatever digest was given besides."""
    url, target = origin.url("/d/i.img"), tmp_path / "out.img"
    put(origin, f"/d/i.img{suffix}", gpg.detached(CONTENT, "one", armored=suffix == ".asc"))
    assert any("itself is signed" in w for w in probe_sync(url, keyring=keyring).warnings)
    result = fetch_sync(url, target, keyring=keyring, retry=0, require_checksum=True)
    assert target.read_bytes() == CONTENT
    assert result.integrity == "strong"
    assert result.signed_by is not None
    assert gpg.fingerprint("one") in result.signed_by
    again = fetch_sync(url, target, keyring=keyring, retry=0)
    assert (again.already_present, again.signed_by) == (True, result.signed_by)
    target.unlink()
    for bad in (gpg.detached(CONTENT + b"x", "one"), gpg.detached(CONTENT, "other"), b"junk"):
        put(origin, f"/d/i.img{suffix}", bad)
        for options in ({}, {"checksum": f"sha-256:{SHA256}"}):
            with pytest.raises(IntegrityError, match="the signature"):
                fetch_sync(url, target, keyring=keyring, retry=0, **options)
            assert not [path for path in tmp_path.iterdir() if "out.img" in path.name]


def test_other_bytes_under_a_right_signature_are_refused(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """In the file that would be new, and in the one that is there."""
    put(origin, "/d/i.img.sig", gpg.detached(CONTENT, "one"))
    put(origin, "/d/i.img", CONTENT[:-1] + b"!")
    url, target = origin.url("/d/i.img"), tmp_path / "out.img"
    with pytest.raises(IntegrityError, match="is wrong"):
        fetch_sync(url, target, keyring=keyring, retry=0)
    assert not target.exists()
    target.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(IntegrityError, match="is wrong"):
        fetch_sync(url, target, keyring=keyring, retry=0)
    assert target.read_bytes() == CONTENT[:-1] + b"?"


@pytest.mark.parametrize("kind", ["minisign", "ssh", "x509"])
def test_other_kinds_of_keys_sign_images_lists_and_metalinks(
    origin: FaultOrigin, tmp_path: Path, kind: str
) -> None:
    """The keyring's content says which signatures are looked for."""
    keys = signers(kind, tmp_path / "keys")
    suffix = {"minisign": ".minisig", "ssh": ".sig", "x509": ".p7s"}[kind]
    ring = str(tmp_path / "keys" / "one.pub")
    sums = f"{SHA256}  i.img\n".encode()
    document = lab.metalink(
        "i", [origin.url("/d/i.img")], size=len(CONTENT), sha256=SHA256
    ).encode()
    put(origin, f"/d/i.img{suffix}", keys.sign(CONTENT, "one"))
    put(origin, "/l/SHA256SUMS", sums)
    put(origin, f"/l/SHA256SUMS{suffix}", keys.sign(sums, "one"))
    put(origin, "/m.meta4", document)
    put(origin, f"/m.meta4{suffix}", keys.sign(document, "one"))
    for n, (source, words) in enumerate(
        (
            ("/d/i.img", ()),
            ("/d/i.img", ("--checksum", origin.url("/l/SHA256SUMS"))),
            ("/m.meta4", ()),
        )
    ):
        target = tmp_path / f"out{n}"
        done = run_fastdl(
            ["get", origin.url(source), "-o", str(target), "--keyring", ring, *words],
            home=tmp_path,
        )
        assert done.code == 0, done.stderr
        assert "integrity strong, signed by " in done.stdout
        assert target.read_bytes() == CONTENT
    put(origin, f"/d/i.img{suffix}", keys.sign(CONTENT, "other"))
    words = ["get", origin.url("/d/i.img"), "-o", str(tmp_path / "no"), "--keyring", ring]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == IntegrityError.exit_code
    assert not (tmp_path / "no").exists()


def test_a_metalink_holds_the_images_signature(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """RFC 5854's ``signature`` is of the file; one beside the document goes first."""
    text = lab.metalink("i", [origin.url("/d/i.img")], size=len(CONTENT), sha256=SHA256)

    def with_signature(data: bytes) -> bytes:
        armor = gpg.detached(data, "one", armored=True).decode()
        inside = f'<signature mediatype="application/pgp-signature">\n{armor}</signature></file>'
        return text.replace("</file>", inside).encode()

    for version, works in ((with_signature(CONTENT), True), (with_signature(b"x"), False)):
        put(origin, "/i.meta4", version)
        target = tmp_path / "out"
        if works:
            result = fetch_sync(origin.url("/i.meta4"), target, keyring=keyring, retry=0)
            assert (result.integrity, result.signed_by is not None) == ("strong", True)
            target.unlink()
        else:
            with pytest.raises(IntegrityError, match="is wrong"):
                fetch_sync(origin.url("/i.meta4"), target, keyring=keyring, retry=0)
            assert not target.exists()
            # Without a keyring nobody looks at it.
            assert fetch_sync(origin.url("/i.meta4"), target).signed_by is None
    put(origin, "/i.meta4", text.encode())
    with pytest.raises(PolicyError, match="no signature"):
        fetch_sync(origin.url("/i.meta4"), tmp_path / "o2", keyring=keyring, retry=0)


def test_a_signed_image_is_staged_where_it_is_converted(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """The signature is of the bytes as they came, compressed ones too."""
    packed = lzma.compress(CONTENT, preset=0)
    put(origin, "/d/i.img.xz", packed)
    for path, data in (("/d/i.img", CONTENT), ("/d/i.img.xz", packed)):
        put(origin, f"{path}.sig", gpg.detached(data, "one"))
        target = tmp_path / "raw"
        result = fetch_sync(
            origin.url(path),
            target,
            keyring=keyring,
            retry=0,
            target_format="raw",
            overwrite="file",
        )
        assert target.read_bytes() == CONTENT
        assert result.integrity == "strong"
        assert result.signed_by is not None
        put(origin, f"{path}.sig", gpg.detached(data + b"x", "one"))
        target.unlink()
        with pytest.raises(IntegrityError, match="is wrong"):
            fetch_sync(origin.url(path), target, keyring=keyring, retry=0, target_format="raw")
        assert not target.exists()


def test_what_cannot_be_checked_before_it_is_used_is_refused(
    origin: FaultOrigin, tmp_path: Path, gpg: Publisher, keyring: str
) -> None:
    """A pipe has been read when the signature is known to be wrong."""
    put(origin, "/d/i.img.sig", gpg.detached(CONTENT, "one"))
    words = ["get", origin.url("/d/i.img"), "-o", "-", "--keyring", keyring]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == PolicyError.exit_code
    assert "fetch to a file first" in done.stderr
    with pytest.raises(PolicyError):
        fetch_sync(origin.url("/d/i.img"), "null:", keyring=keyring)
