# SPDX-License-Identifier: Apache-2.0
"""Under which name does a file come to lie where the command gives none?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule, When
from tests.env.here import metalink
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(1, 300_000)
OTHER = pseudo_random(2, 300_000)
Get = Callable[..., Outcome]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def get(here: Path, tmp_path: Path) -> Get:
    """``fastdl get`` in that folder."""
    return lambda *words: run_fastdl(["get", *words], home=tmp_path / "home", cwd=here)


def test_the_urls_name_in_the_current_folder(get: Get, here: Path) -> None:
    """As curl -O, wget and aria2 do."""
    with FaultOrigin({"/x/disk.img": Resource.of(CONTENT)}) as origin:
        ended = get(origin.url("/x/disk.img"))
        assert len(origin.requests) == 1
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("disk.img: ")
    assert (here / "disk.img").read_bytes() == CONTENT


def test_a_folder_is_made(get: Get, here: Path) -> None:
    """``-d`` as aria2's; with ``-o`` the name lies in it."""
    with FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as origin:
        assert get("-d", "a/b", "-o", "c.img", origin.url("/disk.img")).code == 0
        assert get("-O", "--dir", "a/b", origin.url("/disk.img")).code == 0
    assert (here / "a/b/c.img").read_bytes() == CONTENT
    assert (here / "a/b/disk.img").read_bytes() == CONTENT


def test_a_url_without_a_name_needs_one(get: Get) -> None:
    """Nothing is guessed."""
    with FaultOrigin({"/": Resource.of(CONTENT)}) as origin:
        ended = get(origin.url("/"))
    assert ended.code == 2
    assert "-o NAME" in ended.stderr


@pytest.mark.parametrize(
    ("field", "name"),
    [('attachment; filename="real.img"', "real.img"), ("attachment", "download")],
)
def test_the_servers_name(get: Get, here: Path, field: str, name: str) -> None:
    """With ``-J`` alone, and in one request."""
    with FaultOrigin(
        {"/download": Resource.of(CONTENT, headers=[("Content-Disposition", field)])}
    ) as origin:
        ended = get("-J", origin.url("/download"))
        assert len(origin.requests) == 1
    assert ended.code == 0, ended.stderr
    assert (here / name).read_bytes() == CONTENT


@pytest.mark.parametrize("name", [".bashrc", "..", "-rf", "a\tb", "~root", "x%2f..%2fy"])
def test_a_servers_name_is_a_strangers(get: Get, here: Path, name: str) -> None:
    """Nothing hidden, nothing that a shell or a path reads as something else."""
    fields = [("Content-Disposition", f'attachment; filename="{name}"')]
    with FaultOrigin({"/download": Resource.of(CONTENT, headers=fields)}) as origin:
        ended = get("-J", origin.url("/download"))
    assert ended.code == 33, ended.stderr
    assert not list(here.iterdir())


@pytest.mark.parametrize("path", ["/many.meta4", "/typed"])
def test_a_metalinks_file_has_its_own_name(get: Get, here: Path, path: str) -> None:
    """Not the document's: the second file of a document would collide with the first."""
    with FaultOrigin({"/data": Resource.of(CONTENT), "/more": Resource.of(OTHER)}) as origin:
        origin.resources[path] = metalink(
            ("a.img", origin.url("/data"), CONTENT), ("b.img", origin.url("/more"), OTHER)
        )
        assert get(origin.url(path), "--metalink-file", "a.img").code == 0
        assert get(origin.url(path), "--metalink-file", "b.img").code == 0
    assert (here / "a.img").read_bytes() == CONTENT
    assert (here / "b.img").read_bytes() == OTHER


@pytest.mark.parametrize(
    ("second", "content"),
    [("/b.img", CONTENT[:1000]), ("/b.img", OTHER), ("/y/a.img", CONTENT[:1000])],
    ids=["length", "bytes", "same-name"],
)
def test_different_files_are_no_mirrors(get: Get, here: Path, second: str, content: bytes) -> None:
    """One of them would be fetched and exit 0 would say that all are there."""
    with FaultOrigin({"/a.img": Resource.of(CONTENT), second: Resource.of(content)}) as origin:
        ended = get(origin.url("/a.img"), origin.url(second), "-d", ".")
    assert ended.code == 2, ended.stderr
    assert "-Z" in ended.stderr
    assert "-i" in ended.stderr
    assert not list(here.iterdir())


def test_a_dead_one_of_another_name_is_no_mirror(get: Get, here: Path) -> None:
    """Nobody knows what it would have been."""
    rules = [Rule(when=When(), status=404)]
    with FaultOrigin(
        {"/a.img": Resource.of(CONTENT, rules=rules), "/b.img": Resource.of(OTHER)}
    ) as origin:
        ended = get(origin.url("/a.img"), origin.url("/b.img"), "-d", ".")
    assert ended.code == 2, ended.stderr
    assert not list(here.iterdir())


def test_mirrors_are_mirrors(get: Get, here: Path) -> None:
    """The same bytes, under one name or another."""
    with FaultOrigin({"/a.img": Resource.of(CONTENT), "/x/a.img": Resource.of(CONTENT)}) as origin:
        ended = get(origin.url("/a.img"), origin.url("/x/a.img"))
    assert ended.code == 0, ended.stderr
    assert (here / "a.img").read_bytes() == CONTENT
