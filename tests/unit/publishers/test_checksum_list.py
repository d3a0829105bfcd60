# SPDX-License-Identifier: Apache-2.0
"""Is a file's digest read from a list as its publisher means it, and never guessed?"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ChecksumListError, LimitError
from fastdl.model.digest import Digest
from fastdl.publishers.checksum_list import MAX_LIST, digest_of, read_list

A, B = hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()
A5, AM = hashlib.sha512(b"a").hexdigest(), hashlib.md5(b"a").hexdigest()
WANTED = Digest("sha-256", A)


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  i.img\n",
        f"{A} *i.img\n",
        f"{A}\ti.img\n",
        f"{A} i.img",
        f"{A.upper()}  i.img\r\n",
        f"\ufeff{A}  ./i.img\n",
        f"{A}  images/24.04/i.img\n",
        f"{B}  i.img.manifest\n{A}  i.img\n{B}  xi.img\n{B}  I.IMG\n",
        f"SHA256 (i.img) = {A}\n",
        f"SHA256(i.img)= {A}\n",
        f"SHA2-256(i.img)= {A}\n",
        f"# i.img: 300 bytes\nSHA256 (i.img) = {A}\nBLAKE2b (i.img) = {A5}\n",
        f"{A}\n",
        f"{A}  -\n",
        f"{AM}  i.img\n{A}  i.img\n",
        f"{A}  i.img\n{A}  i.img\n",
        f"hello\n\n{A}  i.img\n<p>\n",
    ],
)
def test_every_form_in_use_is_read(text: str) -> None:
    """Publishers write lists with many tools."""
    assert digest_of(read_list(text.encode()), "i.img") == WANTED


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  i.img.xz\n",
        f"{A}  I.img\n",
        f"{A}  xi.img\n",
        f"{A}  i.img\n{B}  i.img\n",
        f"{A}  a/i.img\n{B}  b/i.img\n",
        f"{A}  j.img\n{B}\n",
        f"{A}\n{B}\n",
        f"{A} i.img \\\n",
        f"BLAKE2b (i.img) = {A5}\n",
        f"SHA256 (i.img) = {A5}\n",
        f"{A}0  i.img\n",
        "<html>\n",
        "",
    ],
)
def test_what_leaves_the_digest_open_is_an_error(text: str) -> None:
    """A guess would be worse than no checksum: it says that somebody looked."""
    with pytest.raises(ChecksumListError):
        digest_of(read_list(text.encode()), "i.img")


def test_the_path_decides_between_files_of_one_name() -> None:
    """A list of a whole archive names the same file in several folders."""
    entries = read_list(f"{A}  24.04/i.img\n{B}  ./25.04/i.img\n".encode())
    assert digest_of(entries, "i.img", path="25.04/i.img").hex == B
    assert digest_of(entries, "i.img", path="24.04/i.img").hex == A
    with pytest.raises(ChecksumListError, match="which one is meant"):
        digest_of(entries, "i.img", path="26.04/i.img")
    entries = read_list(f"{A}  i.img\n{B}  old/i.img\n".encode())
    assert digest_of(entries, "i.img").hex == A


@pytest.mark.parametrize(
    ("called", "text", "algorithm"),
    [
        ("SHA512SUMS", f"{A5}  i.img", "sha-512"),
        ("i.img.sha512", A5, "sha-512"),
        ("i.sha256.img.sha-512", A5, "sha-512"),
        ("MD5SUMS", f"{AM}  i.img", "md5"),
        ("sha256sum.txt.asc", f"{A}  i.img", "sha-256"),
        ("fedora-CHECKSUM", f"SHA256 (i.img) = {A}", "sha-256"),
    ],
)
def test_the_lists_name_tells_the_algorithm(called: str, text: str, algorithm: str) -> None:
    """As its number of digits does, where it has such a name."""
    assert digest_of(read_list(text.encode(), called=called), "i.img").algorithm == algorithm


@pytest.mark.parametrize(
    "called",
    ["B2SUMS", "i.img.b3", "i.img.blake2b", "SHA3-256SUMS", "i.img.sha512-256", "SHA1SUMS"],
)
def test_digits_of_another_algorithm_are_not_taken_for_ours(called: str) -> None:
    """BLAKE2b has as many digits as SHA-512, and SHA3-256 as SHA-256."""
    digits = A if "256" in called or called.endswith("b3") else A5
    with pytest.raises(ChecksumListError):
        digest_of(read_list(f"{digits}  i.img".encode(), called=called), "i.img")


def test_coreutils_own_lists_of_odd_names_are_read(tmp_path: Path) -> None:
    """Names with a backslash or a newline are escaped, and read as they were."""
    for name in ("a b.img", "a\\b.img", "a\nb.img", "*star", "(i) = x.img", " i.img"[1:]):
        (tmp_path / name).write_bytes(name.encode())
        want = hashlib.sha256(name.encode()).hexdigest()
        for mode in ((), ("--binary",), ("--tag",)):
            done = subprocess.run(
                ["sha256sum", *mode, "--", name], cwd=tmp_path, capture_output=True, check=True
            )
            assert digest_of(read_list(done.stdout), name).hex == want, (name, mode)


def test_a_list_has_limits() -> None:
    """Whoever serves it may send for ever."""
    with pytest.raises(LimitError):
        read_list(b"#" * (MAX_LIST + 1))
    with pytest.raises(LimitError):
        read_list(b"\n" * 200_000)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_list_or_an_error(data: bytes) -> None:
    """Nothing but its own class of error leaves a parser."""
    try:
        entries = read_list(data)
    except ChecksumListError:
        return
    assert entries
