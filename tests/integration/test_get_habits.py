# SPDX-License-Identifier: Apache-2.0
"""What curl's, wget's and aria2's users do besides: going on, logging in, hooks, ways and words."""

from __future__ import annotations

import base64
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from tests.env.command import run_fastdl
from tests.env.faults import Rule, When
from tests.env.here import Here, metalink, sha256
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

MIB = 1 << 20
CONTENT = pseudo_random(3, 6 * MIB + 12345)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.fixture
def origin() -> FaultOrigin:
    return FaultOrigin({"/disk.img": Resource.of(CONTENT)})


# ---- going on ---------------------------------------------------------------------


def test_a_shorter_file_is_taken_up(here: Here, origin: FaultOrigin) -> None:
    """As curl and wget leave it: what is there is not fetched, and the whole is proven."""
    here.write("disk.img", CONTENT[: 4 * MIB + 99])
    with origin:
        ended = here.get("-c", origin.url("/disk.img"), "--checksum", sha256(CONTENT))
        assert ended.code == 0, ended
        # The first request asks for 1 MiB, whatever is there.
        assert origin.sent < len(CONTENT) - 2 * MIB
    assert here.read("disk.img") == CONTENT
    assert "resumed" in ended.stdout
    assert here.names() == ["disk.img"]


def test_a_whole_file_is_left_where_it_is(here: Here, origin: FaultOrigin) -> None:
    """Nothing is copied: the file stays the same one, and no part file is left."""
    path = here.write("disk.img", CONTENT)
    before = path.stat()
    with origin:
        ended = here.get("-c", origin.url("/disk.img"), "--checksum", sha256(CONTENT))
    assert ended.code == 0, ended
    assert "there already" in ended.stdout
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert here.names() == ["disk.img"]


def test_what_really_curl_left(here: Here, origin: FaultOrigin) -> None:
    """And ``curl -C -``'s own spelling."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with origin:
        url = origin.url("/disk.img")
        origin.resources["/disk.img"].rules.append(Rule(when=When(last_nth=1), body_cut=5 * MIB))
        subprocess.run(["curl", "-sO", url], cwd=here.path, check=False)
        assert here.read("disk.img") == CONTENT[: 5 * MIB]
        ended = here.get("-C", "-", "-O", url, "--checksum", sha256(CONTENT))
    assert ended.code == 0, ended
    assert here.read("disk.img") == CONTENT


@pytest.mark.parametrize("proof", ["checksum", "metalink"])
def test_what_is_no_part_of_it_is_fetched(here: Here, origin: FaultOrigin, proof: str) -> None:
    """Another file's bytes, or a version before: they are found out, and all comes anew."""
    here.write("disk.img", pseudo_random(4, 5 * MIB))
    with origin:
        origin.resources["/m.meta4"] = metalink(("disk.img", origin.url("/disk.img"), CONTENT))
        words = [origin.url("/disk.img"), "--checksum", sha256(CONTENT)]
        ended = here.get("-c", *(words if proof == "checksum" else [origin.url("/m.meta4")]))
    assert ended.code == 0, ended
    assert here.read("disk.img") == CONTENT
    assert "no part of this file" in ended.stderr


def test_without_proof_nothing_is_taken_up(here: Here, origin: FaultOrigin) -> None:
    """Nobody could tell whether the two parts belong together."""
    here.write("disk.img", CONTENT[:MIB])
    with origin:
        ended = here.get("-c", origin.url("/disk.img"))
    assert ended.code == 33, ended
    assert "--checksum" in ended.stderr
    assert here.read("disk.img") == CONTENT[:MIB]


def test_aria2s_pieces_are_taken_up(here: Here, origin: FaultOrigin) -> None:
    """Its file has its full length at once: the control file says which pieces are there."""
    piece, count = MIB, 7
    have = {0, 2, 5}
    holes = bytearray(CONTENT)
    bits = 0
    for index in range(count):
        if index in have:
            bits |= 0x80 >> index
        else:
            holes[index * piece : (index + 1) * piece] = b"\x55" * len(
                CONTENT[index * piece : (index + 1) * piece]
            )
    here.write("disk.img", bytes(holes))
    here.write(
        "disk.img.aria2",
        struct.pack(">HII", 1, 0, 0)
        + struct.pack(">IQQI", piece, len(CONTENT), 0, 1)
        + bytes([bits])
        + struct.pack(">I", 0),
    )
    with origin:
        ended = here.get("-c", origin.url("/disk.img"), "--checksum", sha256(CONTENT))
        assert ended.code == 0, ended
        assert origin.sent < len(CONTENT) - MIB
    assert here.read("disk.img") == CONTENT
    assert "no part" not in ended.stderr


def test_a_file_is_skipped(here: Here, origin: FaultOrigin) -> None:
    """Without a request; with a checksum it has to have it."""
    here.write("disk.img", b"mine")
    with origin:
        ended = here.get("--skip-existing", origin.url("/disk.img"))
        assert (ended.code, origin.requests) == (0, [])
        assert "not compared" in ended.stdout
        assert ended.stdout.startswith("disk.img: ")
        ended = here.get("--skip-existing", origin.url("/disk.img"), "--checksum", sha256(CONTENT))
    assert ended.code == 33
    assert here.read("disk.img") == b"mine"


def test_the_servers_time(here: Here) -> None:
    """``-R``: when it changed there."""
    version = Version(content=CONTENT, last_modified="Sun, 06 Nov 1994 08:49:37 GMT")
    with FaultOrigin({"/disk.img": Resource(versions=[version])}) as origin:
        assert here.get("-R", origin.url("/disk.img")).code == 0
        assert here.get(origin.url("/disk.img"), "-o", "now.img").code == 0
    assert (here.path / "disk.img").stat().st_mtime == 784111777
    assert time.time() - (here.path / "now.img").stat().st_mtime < 600


# ---- who asks ---------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--netrc-file", "netrc"], "authorization", basic("me", "s3cret")),
        (["-u", "me:s3cret"], "authorization", basic("me", "s3cret")),
        (["--bearer-file", "token"], "authorization", "Bearer s3cret"),
        (["-b", "jar"], "cookie", "sid=s3cret"),
        (["-b", "sid=s3cret"], "cookie", "sid=s3cret"),
        (["-H", "X-Key: s3cret"], "x-key", "s3cret"),
    ],
    ids=["netrc", "user", "bearer", "jar", "cookie", "header"],
)
def test_credentials_go_to_the_typed_origin_alone(
    here: Here, words: list[str], field: str, value: str
) -> None:
    """Not to where a redirect leads; and nothing that is printed shows them, even with ``-v``."""
    here.write("netrc", "machine 127.0.0.1 login me password s3cret\n")
    here.write("token", "s3cret\n")
    here.write("jar", "127.0.0.1\tFALSE\t/\tFALSE\t0\tsid\ts3cret\n")
    with (
        FaultOrigin({"/disk.img": Resource.of(CONTENT)}, name="localhost") as other,
        FaultOrigin() as origin,
    ):
        away = Rule(when=When(), status=302, set={"Location": other.url("/disk.img")})
        origin.resources["/disk.img"] = Resource.of(CONTENT)
        origin.resources["/away"] = Resource.of(b"", rules=[away])
        ended = here.get("-v", *words, origin.url("/disk.img"))
        assert ended.code == 0, ended
        led = here.get("-v", *words, origin.url("/away"), "-o", "led.img")
        assert led.code == 0, led
        assert all(request.fields[field] == value for request in origin.requests)
        assert all(field not in request.fields for request in other.requests)
    shown = ended.stdout + ended.stderr + led.stdout + led.stderr
    assert "s3cret" not in shown
    assert basic("me", "s3cret").split()[1] not in shown


def test_the_users_own_netrc(here: Here, origin: FaultOrigin) -> None:
    """``-n``; a user in the URL chooses among several."""
    here.home.mkdir()
    (here.home / ".netrc").write_text(
        "machine 127.0.0.1 login me password one\nmachine 127.0.0.1 login you password two\n"
    )
    with origin:
        assert here.get("-n", origin.url("/disk.img")).code == 0
        assert {r.fields["authorization"] for r in origin.requests} == {basic("me", "one")}
        origin.requests.clear()
        url = origin.url("/disk.img").replace("://", "://you@")
        assert here.get("-n", url, "-o", "b").code == 0
        assert {r.fields["authorization"] for r in origin.requests} == {basic("you", "two")}


@pytest.mark.parametrize("words", [["-n"], ["-b", "none"], ["--bearer-file", "none"]])
def test_a_missing_file_of_secrets(here: Here, origin: FaultOrigin, words: list[str]) -> None:
    """Asking without what was to be used would be a surprise."""
    with origin:
        ended = here.get(*words, origin.url("/disk.img"))
        assert (ended.code, origin.requests) == (2, [])


def test_a_missing_login_says_how_to_give_one(here: Here) -> None:
    """A server that wants one is not a server that refuses everybody."""
    for status, hint in ((401, True), (403, False)):
        rules = [Rule(when=When(), status=status)]
        with FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=rules)}) as origin:
            ended = here.get(origin.url("/disk.img"))
        assert (ended.code, "--bearer-file" in ended.stderr) == (11, hint), ended


# ---- by which way -----------------------------------------------------------------


def test_a_name_is_given_an_address(here: Here, origin: FaultOrigin) -> None:
    """``--resolve`` as curl's; the Host field is the name's."""
    with origin:
        port = origin.url("/").split(":")[2].strip("/")
        ended = here.get(
            f"http://nowhere.example:{port}/disk.img",
            "--resolve",
            f"nowhere.example:{port}:127.0.0.1",
            "--noproxy",
            "*",
        )
        assert ended.code == 0, ended
        assert {r.fields["host"] for r in origin.requests} == {f"nowhere.example:{port}"}


def test_an_address_to_connect_from(here: Here, origin: FaultOrigin) -> None:
    """``--interface`` with an own address, or a device's name; one that is nobody's says so."""
    with origin:
        url = origin.url("/disk.img")
        assert here.get("--interface", "127.0.0.2", url, "-o", "a").code == 0
        assert here.get("--interface", "lo", url, "-o", "b").code == 0
        ended = here.get("--interface", "no-such-one", url, "-o", "c", "--retry", "0")
    assert ended.code == 2, ended
    assert "interface" in ended.stderr


def test_one_family_of_addresses(here: Here, origin: FaultOrigin) -> None:
    """``-4`` reaches an IPv4 server by a name that has both; ``-6`` does not."""
    with origin:
        url = origin.url("/disk.img").replace("127.0.0.1", "both.example")
        port = url.split(":")[2].split("/")[0]
        pin = ["--resolve", f"both.example:{port}:[::1],127.0.0.1", "--noproxy", "*"]
        assert here.get("-4", *pin, url, "-o", "a").code == 0
        assert here.get("-6", *pin, url, "-o", "b", "--retry", "0").code == 10
        ended = here.get("-6", origin.url("/disk.img"), "-o", "b", "--retry", "0")
        assert (ended.code, "no address of the requested family" in ended.stderr) == (10, True)
        assert here.get("-4", "-6", url).code == 2


@pytest.mark.parametrize("pin", ["a:80", "a:x:127.0.0.1", "a:80:localhost", "a:0:127.0.0.1"])
def test_a_wrong_pin(here: Here, pin: str) -> None:
    """Said before anything is asked."""
    ended = here.get("--resolve", pin, "http://a/x")
    assert (ended.code, ended.classes) == (2, ["USAGE"])


def test_a_dead_proxy_is_called_one(here: Here, origin: FaultOrigin) -> None:
    """Not the host, which nobody has asked."""
    with origin:
        url = origin.url("/disk.img")
        for proxy in ("http://127.0.0.1:1", "socks5h://127.0.0.1:1", "http://nowhere.invalid:1"):
            ended = here.get("-x", proxy, url, "--retry", "0")
            assert ended.code == 10
            assert "proxy" in ended.stderr
            assert "the host" not in ended.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("example.com/f", "https://"),
        ("127.0.0.1:8080/f", "http://"),
        ("localhost:8080/f", "http://"),
        ("ORIGIN-AS-HTTPS", "does this port use TLS?"),
    ],
)
def test_a_slip_in_a_url(here: Here, origin: FaultOrigin, source: str, said: str) -> None:
    """The sentence says what was probably meant."""
    with origin:
        url = origin.url("/disk.img").replace("http:", "https:")
        ended = here.get(
            url if source.startswith("ORIGIN") else source, "--retry=0", "--connect-timeout=2"
        )
    assert ended.code != 0
    assert said in ended.stderr


def test_a_response_may_end_with_its_connection(here: Here) -> None:
    """Without a length: where a checksum proves it nothing is wrong, and nothing is said."""
    close = Rule(
        when=When(),
        remove=("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"),
        ignore_range=True,
        close=True,
    )
    with FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=[close])}) as origin:
        ended = here.get(origin.url("/disk.img"), "--checksum", sha256(CONTENT))
    assert ended.code == 0, ended
    assert ended.stderr == ""
    assert here.read("disk.img") == CONTENT


# ---- how it is typed ---------------------------------------------------------------


def test_options_stand_between_sources(here: Here, origin: FaultOrigin) -> None:
    """Mirrors before and behind them; behind ``--`` too."""
    with origin, FaultOrigin({"/disk.img": Resource.of(CONTENT)}) as other:
        ended = here.get(origin.url("/none.img"), "-q", other.url("/disk.img"), "-o", "a")
        assert (ended.code, here.read("a")) == (0, CONTENT), ended
        origin.requests.clear()
        ended = here.get(other.url("/none.img"), "-o", "b", "-q", "--", origin.url("/disk.img"))
        assert (ended.code, here.read("b")) == (0, CONTENT), ended
        ended = here.get(other.url("/disk.img"), "-q", origin.url("/x"), "--no-such-option")
        assert (ended.code, "--no-such-option" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    "words", [("-O", "A", "-O", "B"), ("--remote-name-all", "A", "B"), ("-sO", "A", "-O", "B")]
)
def test_each_url_is_a_file_where_curl_says_so(
    here: Here, origin: FaultOrigin, words: tuple[str, ...]
) -> None:
    """One ``-O`` is of one URL: two of them are never mirrors."""
    with origin:
        origin.resources["/two.img"] = Resource.of(CONTENT[:99])
        urls = {"A": origin.url("/disk.img"), "B": origin.url("/two.img")}
        ended = here.get(*(urls.get(word, word) for word in words))
    assert ended.code == 0, ended
    assert (here.read("disk.img"), here.read("two.img")) == (CONTENT, CONTENT[:99])


def test_what_is_on_or_off_in_aria2(here: Here, origin: FaultOrigin) -> None:
    """``=true`` and ``=false``; any other value is an error."""
    here.write("disk.img", CONTENT[:MIB])
    with origin:
        words = [origin.url("/disk.img"), "--checksum", sha256(CONTENT)]
        assert here.get("--continue=false", *words).code == 33
        assert here.get("--continue=maybe", *words).code == 2
        ended = here.get("--continue=true", *words)
    assert ended.code == 0, ended
    assert "resumed" in ended.stdout


@pytest.mark.parametrize("word", ["-I", "--head", "--spider"])
def test_only_a_look(here: Here, word: str) -> None:
    """There is a verb for it; it is no beginning of another option's name."""
    ended = here.get(word, "http://127.0.0.1:9/x")
    assert (ended.code, "fastdl probe" in ended.stderr) == (2, True), ended


@pytest.mark.parametrize("words", [("help", "get"), ("--help", "get"), ("get", "--help")])
def test_help_about_a_verb(here: Here, words: tuple[str, ...]) -> None:
    """However one asks for it; a topic may follow."""
    ended = run_fastdl(words, home=here.home)
    assert ended.code == 0, ended
    assert ended.stdout.startswith("usage: fastdl get ")
    assert "network:" in run_fastdl([*words, "network"], home=here.home).stdout


@pytest.mark.parametrize(("typed", "said"), [("gett", "is get meant?"), ("xyz", "lists them")])
def test_a_verb_that_is_none(here: Here, typed: str, said: str) -> None:
    """The nearest one, or where they are listed."""
    ended = run_fastdl([typed, "x"], home=here.home)
    assert (ended.code, said in ended.stderr) == (2, True), ended


# ---- what is said -----------------------------------------------------------------


@pytest.mark.parametrize("word", ["-q", "-s", "--silent"])
def test_quiet(here: Here, origin: FaultOrigin, word: str) -> None:
    """Nothing at all but errors."""
    with origin:
        ended = here.get(word, origin.url("/disk.img"))
        assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")
        ended = here.get(word, origin.url("/none"))
    assert ended.classes == ["HTTP_STATUS"]


def test_verbose(here: Here, origin: FaultOrigin) -> None:
    """Which requests were made, and why a mirror was left."""
    rules = [Rule(when=When(), corrupt=3 * MIB)]
    with origin, FaultOrigin({"/disk.img": Resource.of(CONTENT, rules=rules)}) as liar:
        ended = here.get(
            "-v",
            origin.url("/disk.img") + "?sig=s3cret",
            liar.url("/disk.img"),
            "-o",
            "x",
            "--checksum",
            sha256(CONTENT),
        )
    assert ended.code == 0, ended
    assert f"> GET {origin.url('/disk.img')}" in ended.stderr
    assert "< 206" in ended.stderr
    assert "s3cret" not in ended.stderr


def test_a_hook(here: Here, origin: FaultOrigin) -> None:
    """Its argument and environment; no shell reads a name; what it does changes no exit code."""
    hook = here.write("hook", '#!/bin/sh\nenv | grep ^FASTDL_ > seen\necho "$2" >> seen\nexit 3\n')
    hook.chmod(0o755)
    with origin:
        ended = here.get(
            origin.url("/disk.img") + "?sig=s3cret",
            "-o",
            "a $(touch evil).img",
            "--on-complete",
            f"{hook} 'one word'",
            "--checksum",
            sha256(CONTENT),
        )
    assert ended.code == 0, ended
    assert "ended with 3" in ended.stderr
    seen = here.read("seen").decode().splitlines()
    assert seen[-1] == "a $(touch evil).img"
    assert f"FASTDL_SIZE={len(CONTENT)}" in seen
    assert f"FASTDL_DIGEST={sha256(CONTENT)}" in seen
    assert "FASTDL_INTEGRITY=strong" in seen
    assert "s3cret" not in "".join(seen)
    assert not (here.path / "evil").exists()


def test_lines_without_a_terminal(here: Here) -> None:
    """``--summary-interval``: how far it is, now and then."""
    rules = [Rule(when=When(), rate=1 << 20)]
    with FaultOrigin({"/disk.img": Resource.of(CONTENT[: 3 * MIB], rules=rules)}) as origin:
        ended = here.get(
            origin.url("/disk.img"), "--summary-interval", "0.5", "--max-connections=1"
        )
    assert ended.code == 0, ended
    lines = [line for line in ended.stderr.splitlines() if line.startswith("fastdl: disk.img: ")]
    assert len(lines) >= 2
    assert "of 3.0 MiB" in lines[-1]
    assert os.linesep not in lines[0]
