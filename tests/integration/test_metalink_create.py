# SPDX-License-Identifier: Apache-2.0
"""Do other tools, and we ourselves, bring what our own metalinks describe?"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdl
from fastdl.errors import SinkIOError, UsageError
from fastdl.sources.metalink import Metalink, parse_metalink
from fastdl.sources.metalink_made import describe_file, document_of, piece_length_for
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(31, 3 * MIB + 77)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    bad = Resource.of(CONTENT, rules=[Rule(corrupt=2 * MIB + 5)])
    with FaultOrigin({"/i": Resource.of(CONTENT), "/bad": bad}) as server:
        yield server


@pytest.fixture
def made(origin: FaultOrigin, tmp_path: Path) -> Path:
    """The metalink of the origin's image, made by the command."""
    (tmp_path / "i").write_bytes(CONTENT)
    words = ["metalink", "create", str(tmp_path / "i"), "--url", origin.url("/i")]
    done = run_fastdl([*words, "-o", str(tmp_path / "i.meta4")], home=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    (tmp_path / "i").unlink()
    return tmp_path / "i.meta4"


def _pieces(content: bytes, length: int) -> bytes:
    parts = (content[at : at + length] for at in range(0, len(content), length))
    return b"".join(hashlib.sha256(part).digest() for part in parts)


def _is_right(found: Metalink, content: bytes = CONTENT) -> None:
    assert found.size == len(content)
    assert [str(d) for d in found.digests] == [f"sha-256:{hashlib.sha256(content).hexdigest()}"]
    assert found.pieces is not None
    assert found.pieces.hashes == _pieces(content, found.pieces.length)


# ---- other tools ------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["aria2c", "wget2"])
def test_others_bring_it(made: Path, tmp_path: Path, tool: str) -> None:
    """They check size, pieces and digest of what the document says."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    commands = {
        "aria2c": ["aria2c", "-q", "--no-conf", "-V", f"--metalink-file={made}"],
        "wget2": ["wget2", "-q", "--no-config", "--force-metalink", "-i", str(made)],
    }
    (tmp_path / "there").mkdir()
    done = subprocess.run(commands[tool], timeout=60, check=False, cwd=tmp_path / "there")
    assert done.returncode == 0
    assert (tmp_path / "there" / "i").read_bytes() == CONTENT


def test_we_bring_it_by_pieces(made: Path, tmp_path: Path) -> None:
    """Our own later transfers profit."""
    result = fastdl.fetch_sync(made.as_uri(), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == CONTENT
    assert (result.integrity, result.by_pieces) == ("strong", True)


def test_a_wrong_byte_is_found_by_aria2c(origin: FaultOrigin, tmp_path: Path) -> None:
    """The digests are of the right bytes, not only of the right form."""
    if shutil.which("aria2c") is None:
        pytest.skip("aria2c is not installed")
    (tmp_path / "i").write_bytes(CONTENT)
    document = document_of([describe_file(str(tmp_path / "i"), [origin.url("/bad")])])
    (tmp_path / "i.meta4").write_bytes(document)
    (tmp_path / "i").unlink()
    where = (f"--metalink-file={tmp_path / 'i.meta4'}", f"--dir={tmp_path}")
    command = ["aria2c", "-q", "--no-conf", "-m1", *where]
    done = subprocess.run(command, timeout=60, check=False)
    assert done.returncode != 0


# ---- the document -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 200_000])
def test_what_is_written_is_read(tmp_path: Path, size: int) -> None:
    """Sizes, names and URLs that need care; and the bytes are canonical XML already."""
    content = pseudo_random(32, size)
    path = tmp_path / "a & b <\"'>.img"
    path.write_bytes(content)
    urls = ["https://a.example/i?x=1&y=2", "http://b.example/i"]
    document = document_of([describe_file(str(path), urls, piece_length=65536)])
    found = parse_metalink(document)
    assert found.name == path.name
    assert [mirror.url for mirror in found.mirrors] == urls
    if size:
        _is_right(found, content)
    else:
        assert found.pieces is None
    assert ET.canonicalize(document.decode()).encode() == document


def test_piece_lengths_grow_with_the_file() -> None:
    """A list has at most 65,536 pieces as far as the largest piece allows it."""
    assert piece_length_for(None) == piece_length_for(0) == piece_length_for(64 << 30) == MIB
    assert piece_length_for((64 << 30) + 1) == 2 * MIB
    assert piece_length_for(1 << 62) == 1 << 30


def test_a_folder_and_names_from_stdin(tmp_path: Path) -> None:
    """Hidden files stay out, and names below the folder are kept."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    (folder / "a b.img").write_bytes(b"a")
    (folder / "more" / "c.img").write_bytes(b"cc")
    (folder / ".hidden").write_bytes(b"")
    words = ["metalink", "create", str(folder), "--url", "https://a.example/"]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == 0
    one = parse_metalink(done.stdout.encode(), file_name="a b.img")
    other = parse_metalink(done.stdout.encode(), file_name="more/c.img")
    assert [m.url for m in one.mirrors] == ["https://a.example/a%20b.img"]
    assert [m.url for m in other.mirrors] == ["https://a.example/more/c.img"]
    words = ["metalink", "create", "-", "--url", "https://a.example/c.img"]
    named = f"{folder}/more/c.img\n".encode()
    piped = subprocess.run(
        [sys.executable, "-m", "fastdl", *words], input=named, capture_output=True, check=True
    )
    assert parse_metalink(piped.stdout).name == "c.img"


@pytest.mark.parametrize(
    ("files", "urls", "code", "sentence"),
    [
        (["none"], ["https://a.example/x"], 2, "cannot be read"),
        (["/dev/null"], ["https://a.example/x"], 2, "is no file"),
        (["i", "j"], ["https://a.example/x"], 2, "end with /"),
        (["i", "i"], ["https://a.example/"], 2, "called 'i'"),
        (["i"], ["https://u:secret@a.example/x"], 2, "no user or password"),
        (["i"], ["/local/path"], 2, "http or https"),
        (["bad\\name"], ["https://a.example/"], 2, "that name"),
    ],
)
def test_what_cannot_be_described_is_refused(
    tmp_path: Path, files: list[str], urls: list[str], code: int, sentence: str
) -> None:
    """One error each, no secret in it, and no document."""
    for name in ("i", "j", "bad\\name"):
        (tmp_path / name).write_bytes(b"x")
    words = ["metalink", "create", *(str(tmp_path / file) for file in files)]
    words += [word for url in urls for word in ("--url", url)]
    done = run_fastdl([*words, "-o", str(tmp_path / "out")], home=tmp_path)
    assert done.code == code
    assert sentence in done.stderr
    assert "secret" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_is_not_described(tmp_path: Path) -> None:
    """A list of what never was at one time would help nobody."""
    path = tmp_path / "i"
    path.write_bytes(CONTENT)
    with pytest.raises(SinkIOError, match="changed"):
        describe_file(
            str(path), ["https://a.example/i"], check=lambda: os.truncate(path, len(CONTENT) - 1)
        )


# ---- fastdl get --write-metalink --------------------------------------------------


def test_a_download_leaves_a_metalink(origin: FaultOrigin, tmp_path: Path) -> None:
    """With the name, the digests of whole and pieces, and the mirror that was used."""
    out, list_ = tmp_path / "img", tmp_path / "m.meta4"
    done = run_fastdl(
        ["get", origin.url("/i"), "-o", str(out), "--write-metalink", str(list_)], home=tmp_path
    )
    assert done.code == 0
    found = parse_metalink(list_.read_bytes())
    _is_right(found)
    assert found.name == "img"
    assert [mirror.url for mirror in found.mirrors] == [origin.url("/i")]
    result = fastdl.fetch_sync(list_.as_uri(), tmp_path / "again")
    assert result.by_pieces


def test_an_interrupted_download_lists_all_pieces(origin: FaultOrigin, tmp_path: Path) -> None:
    """What an earlier run brought is read back, and is in the list."""
    content = pseudo_random(33, 24 * MIB)
    origin.resources["/big"] = Resource.of(content, rules=[Rule(rate=16e6)])
    target = tmp_path / "big"
    cancel = fastdl.Cancel()

    def stop(progress: fastdl.Progress) -> None:
        if progress.done > 8 * MIB:
            cancel.cancel("enough")

    with pytest.raises(fastdl.errors.Cancelled):
        fastdl.fetch_sync(origin.url("/big"), target, progress=stop, cancel=cancel)
    origin.resources["/big"].rules.clear()
    result = fastdl.fetch_sync(
        origin.url("/big"), target, write_metalink=str(tmp_path / "m.meta4"), max_connections=4
    )
    assert result.resumed_bytes > 0
    _is_right(parse_metalink((tmp_path / "m.meta4").read_bytes()), content)


def test_a_source_without_a_size_is_listed(origin: FaultOrigin, tmp_path: Path) -> None:
    """Pieces are listed as they come."""
    origin.resources["/i"] = Resource.of(CONTENT, rules=[Rule(chunked="right")])
    fastdl.fetch_sync(origin.url("/i"), tmp_path / "x", write_metalink=str(tmp_path / "m.meta4"))
    _is_right(parse_metalink((tmp_path / "m.meta4").read_bytes()))


def test_pieces_of_the_source_are_kept(made: Path, tmp_path: Path) -> None:
    """The metalink of a metalink says the same, and the whole digest was computed for it."""
    result = fastdl.fetch_sync(
        made.as_uri(), tmp_path / "i", write_metalink=str(tmp_path / "m.meta4")
    )
    assert (tmp_path / "m.meta4").read_bytes() == made.read_bytes()
    assert not result.by_pieces


def test_what_is_there_already_is_read(origin: FaultOrigin, tmp_path: Path) -> None:
    """The second run fetches nothing and writes the same list."""
    lists = []
    for name in ("one", "two"):
        result = fastdl.fetch_sync(
            origin.url("/i"),
            tmp_path / "x",
            checksum=f"sha-256:{SHA256}",
            write_metalink=str(tmp_path / name),
        )
        lists.append((tmp_path / name).read_bytes())
    assert result.already_present
    assert lists[0] == lists[1]


def test_secrets_of_a_source_are_not_handed_on(origin: FaultOrigin, tmp_path: Path) -> None:
    """A query may be a signature: such a mirror is left out, with a warning."""
    origin.resources["/i?token=secret"] = Resource.of(CONTENT)
    result = fastdl.fetch_sync(
        origin.url("/i") + "?token=secret",
        tmp_path / "x",
        write_metalink=str(tmp_path / "m.meta4"),
    )
    assert b"secret" not in (tmp_path / "m.meta4").read_bytes()
    assert any("no mirror" in warning for warning in result.warnings)


def test_one_metalink_is_of_one_file(tmp_path: Path) -> None:
    """Several would overwrite one another."""
    done = run_fastdl(
        ["get", "-Z", "http://127.0.0.1:9/a", "http://127.0.0.1:9/b", "--write-metalink", "m"],
        home=tmp_path,
    )
    assert (done.code, "one file" in done.stderr) == (2, True)


def test_a_bad_length_is_refused(tmp_path: Path) -> None:
    """A piece of a few bytes would make a list longer than the file."""
    (tmp_path / "i").write_bytes(b"x")
    with pytest.raises(UsageError, match="pieces have"):
        describe_file(str(tmp_path / "i"), ["https://a.example/i"], piece_length=512)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("img", 2),
        ("./img", 2),
        ("same/img", 2),
        ("-", 2),
        ("link", 33),
        ("fifo", 33),
        ("full", 33),
        ("folder", 33),
        ("missing/m.meta4", 33),
        ("precious", 33),
        ("precious/m.meta4", 33),
    ],
)
def test_nothing_is_destroyed_by_a_metalink(
    origin: FaultOrigin, tmp_path: Path, name: str, code: int
) -> None:
    """Refused before a byte is fetched, and nothing is left or changed."""
    (tmp_path / "same").symlink_to(".")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    if os.geteuid() == 0:
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    else:
        os.mkfifo(tmp_path / "full")
    home = tmp_path / "home" / "x"
    before = _state(tmp_path)
    done = run_fastdl(
        ["get", origin.url("/i"), "-o", "img", "--write-metalink", name], home=home, cwd=tmp_path
    )
    assert done.code == code, done
    assert _state(tmp_path) == before
    if name not in {"img", "./img", "same/img", "-"}:
        words = ["metalink", "create", "precious", "--url", "https://a.example/", "-o", name]
        assert run_fastdl(words, home=home, cwd=tmp_path).code in {2, code}
        assert _state(tmp_path) == before


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.lstat().st_mode, path.lstat().st_size)
        for path in folder.iterdir()
        if path.name != "home"
    }


def test_an_earlier_metalink_is_replaced(origin: FaultOrigin, tmp_path: Path) -> None:
    """The same command, run again; anything else only with the word for it."""
    words = ["get", origin.url("/i"), "-o", "img", "--write-metalink", "m"]
    proof = ["--checksum", f"sha-256:{SHA256}"]
    for _ in range(2):
        assert run_fastdl([*words, *proof], home=tmp_path / "h" / "x", cwd=tmp_path).code == 0
    _is_right(parse_metalink((tmp_path / "m").read_bytes()))
    (tmp_path / "m").write_text("precious")
    done = run_fastdl([*words, "--overwrite", "file"], home=tmp_path / "h" / "x", cwd=tmp_path)
    assert done.code == 0
    _is_right(parse_metalink((tmp_path / "m").read_bytes()))


def test_a_metalink_that_cannot_be_written_in_the_end_is_a_warning(
    origin: FaultOrigin, tmp_path: Path
) -> None:
    """The image is published by then."""

    def vanish(progress: fastdl.Progress) -> None:
        if progress.stage != "resolve":
            shutil.rmtree(tmp_path / "gone", ignore_errors=True)

    (tmp_path / "gone").mkdir()
    result = fastdl.fetch_sync(
        origin.url("/i"),
        tmp_path / "x",
        progress=vanish,
        write_metalink=str(tmp_path / "gone" / "m"),
    )
    assert any("not written" in warning for warning in result.warnings)
    assert [path.name for path in tmp_path.glob("*x*")] == ["x"]
