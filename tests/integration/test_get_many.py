# SPDX-License-Identifier: Apache-2.0
"""Do several files in one command come as several commands would bring them, under one limit?"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.env.command import running_fastdl
from tests.env.faults import Rule, When
from tests.env.here import Here, metalink, sha256
from tests.env.origin import FaultOrigin, Resource, pseudo_random

FILES = {f"/{name}.img": pseudo_random(i, 200_000 + i) for i, name in enumerate("abcd")}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.fixture
def origin() -> FaultOrigin:
    return FaultOrigin({path: Resource.of(content) for path, content in FILES.items()})


def test_each_source_a_file(here: Here, origin: FaultOrigin) -> None:
    """``-Z``: a line each and a summary; one file's failure ends no other's download."""
    with origin:
        ended = here.get("-Z", *(origin.url(path) for path in (*FILES, "/nope")))
    assert ended.code == 11, ended
    assert here.names() == ["a.img", "b.img", "c.img", "d.img"]
    assert all(here.read(path[1:]) == content for path, content in FILES.items())
    lines = ended.stdout.splitlines()
    assert lines[-1].startswith("4 of 5 files")
    assert lines[-1].endswith("1 failed")
    assert ended.classes == ["HTTP_STATUS"]


def test_the_worst_exit_code(here: Here, origin: FaultOrigin) -> None:
    """A wrong digest is worse than a missing file."""

    with origin:
        text = (
            f"{origin.url('/nope')}\n{origin.url('/a.img')}\n checksum=sha-256={'0' * 64}\n"
            f"{origin.url('/b.img')}\n"
        )
        here.write("list", text)
        ended = here.get("-i", "list")
    assert ended.code == 21, ended
    assert here.names() == ["b.img", "list"]


def test_a_list_in_aria2s_format(here: Here, origin: FaultOrigin) -> None:
    """Mirrors on one line, options below; what is wrong is named by its line."""
    with origin:
        origin.resources["/x/a.img"] = Resource.of(FILES["/a.img"])
        proof = sha256(FILES["/a.img"]).replace(":", "=", 1)
        text = (
            f"{origin.url('/a.img')}\t{origin.url('/x/a.img')}\n"
            f"  out=first.img\n  dir=in\n  checksum={proof}\n"
            f"  header=X-Mine: 1\n"
            f"# a comment\n{origin.url('/b.img')}\n"
            "  max-download-limit=10M\n  continue=true\n  gid=1\n"
        )
        here.write("list", text)
        ended = here.get("-i", "list", "-H", "X-All: 1")
        assert ended.code == 0, ended
        assert here.read("in/first.img") == FILES["/a.img"]
        assert here.read("b.img") == FILES["/b.img"]
        fields = origin.requests_of("/a.img") + origin.requests_of("/x/a.img")
        assert all(r.fields["x-mine"] == "1" and r.fields["x-all"] == "1" for r in fields)
        assert all("x-mine" not in r.fields for r in origin.requests_of("/b.img"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1:1/a\n  oot=x\n", "line 1: 'oot'"),
        ("http://127.0.0.1:1/a\n\nhttp://127.0.0.1:1/b\n  checksum=short\n", "line 3"),
        ("http://127.0.0.1:1/a\n  input-file=other\n", "line 1: 'input-file'"),
        ("http://127.0.0.1:1/a\n  continue=maybe\n", "true or false"),
        ("\n", "names no file"),
    ],
)
def test_a_wrong_list(here: Here, text: str, said: str) -> None:
    """Nothing is fetched of a list that has a mistake."""
    here.write("list", text)
    ended = here.get("-i", "list")
    assert (ended.code, ended.classes) == (2, ["USAGE"])
    assert said in ended.stderr


@pytest.mark.parametrize(
    "words",
    [["-i", "list", "URL"], ["-i", "none"], [], ["-Z", "a", "b", "-o", "f"], ["-j", "0", "a"]],
)
def test_what_does_not_go_together(here: Here, words: list[str]) -> None:
    """One name for several files, a list and sources, nothing at all."""
    ended = here.get(*words)
    assert (ended.code, ended.classes) == (2, ["USAGE"])


@pytest.mark.parametrize("path", ["/all.meta4", "/all"])
def test_all_files_of_a_metalink(here: Here, origin: FaultOrigin, path: str) -> None:
    """Into a folder, each under its own name and with its own digest."""
    with origin:
        origin.resources[path] = metalink(
            *((f"x{p[1:]}", origin.url(p), content) for p, content in FILES.items())
        )
        ended = here.get(origin.url(path), "-d", "all")
        assert ended.code == 0, ended
        assert {p.name: p.read_bytes() for p in (here.path / "all").iterdir()} == {
            f"x{p[1:]}": content for p, content in FILES.items()
        }
        assert ended.stdout.splitlines()[-1].startswith("4 of 4 files")
        assert ended.stdout.count("integrity strong") == 4
        again = here.get(origin.url(path), "-d", "all")
        assert again.code == 0
        assert again.stdout.count("there already") == 4


def test_a_metalink_of_several_files_and_one_name(here: Here, origin: FaultOrigin) -> None:
    """That is a question."""
    with origin:
        origin.resources["/all.meta4"] = metalink(
            *((p[1:], origin.url(p), content) for p, content in FILES.items())
        )
        ended = here.get(origin.url("/all.meta4"), "-o", "one")
    assert ended.code == 20
    assert here.names() == []


def test_a_list_is_stopped(here: Here) -> None:
    """Ctrl-C ends what runs and what waits, at once; the same command resumes."""
    silent = [Rule(when=When(), silent=True)]
    resources = {f"/{i}": Resource.of(b"x", rules=silent) for i in range(9)}
    with FaultOrigin(resources) as origin:
        words = ["get", "-j", "2", "-Z", *(origin.url(path) for path in resources), "-d"]
        with running_fastdl([*words, str(here.path)], home=here.home) as run:
            origin.wait_for(lambda: len(origin.requests) >= 2)
            run.send(signal.SIGINT)
            ended = run.finish(timeout=20)
        assert len(origin.requests) == 2
    assert ended.code == 130, ended
    assert "7 not done" in ended.stdout


def test_a_file_of_a_list_has_its_own_folder(here: Here, origin: FaultOrigin) -> None:
    """It counts instead of the command's."""
    with origin:
        here.write("list", f"{origin.url('/a.img')}\n  dir=own\n{origin.url('/b.img')}\n")
        ended = here.get("-i", "list", "-d", "all")
    assert ended.code == 0, ended
    assert here.read("own/a.img") == FILES["/a.img"]
    assert here.read("all/b.img") == FILES["/b.img"]


def test_json_is_an_object_a_file(here: Here, origin: FaultOrigin) -> None:
    """With its sources, so that a program knows which one it is about; no secret in them."""
    with origin:
        url = origin.url("/a.img").replace("://", "://me:s3cret@") + "?sig=s3cret"
        ended = here.get("--json", "-Z", url, origin.url("/nope"))
    objects = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sorted("error" in one for one in objects) == [False, True]
    assert all(len(one["sources"]) == 1 for one in objects)
    assert "s3cret" not in ended.stdout + ended.stderr


def test_the_rate_is_of_all_files(here: Here, origin: FaultOrigin) -> None:
    """Four files of 200 KB at 400 KB/s take two seconds, at once or not; alone each takes less."""
    with origin:
        began = time.monotonic()
        ended = here.get("-Z", "--limit-rate", "400K", *(origin.url(path) for path in FILES))
        seconds = time.monotonic() - began
    assert ended.code == 0, ended
    # The first 64 KiB of each come with the first response, before the limit.
    assert seconds > (800_000 - 4 * 65536) / 409_600


def test_connections_are_shared(here: Here) -> None:
    """So many files at once have no more connections than one file may have."""
    content = pseudo_random(9, 3 << 20)
    rules = [Rule(when=When(), rate=2 << 20)]
    resources = {f"/{i}": Resource.of(content, rules=rules) for i in range(4)}
    with FaultOrigin(resources) as origin:
        ended = here.get("-Z", "--max-connections=4", *(origin.url(p) for p in resources))
        assert ended.code == 0, ended
        assert origin.most_at_once <= 4
