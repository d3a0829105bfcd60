# SPDX-License-Identifier: Apache-2.0
"""Do an operator's rules for origins hold wherever a URL came from?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.api import fetch_sync, probe_sync
from fastdl.errors import NetError, PolicyError
from fastdl.lab import metalink as lab
from fastdl.sources.origin_rules import OriginRule
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.openpgp import publisher
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(16, 4_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/pub/i.img": Resource.of(CONTENT)}) as server:
        yield server


@pytest.fixture
def mirror() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/m/i.img": Resource.of(CONTENT, etag='"other"')}) as server:
        yield server


def test_our_mirror_is_asked_too(origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path) -> None:
    """Without touching a URL; whether the origin was typed or is a mirror of a metalink."""
    rules = (OriginRule(origin.url("/pub/"), mirrors=(mirror.url("/m/"),)),)
    origin.resources["/pub/i.img"].rules.append(Rule(status=503))
    result = fetch_sync(
        origin.url("/pub/i.img"),
        tmp_path / "a",
        checksum=f"sha-256:{SHA256}",
        origin_rules=rules,
        retry=0,
        headers=(("X-Secret", "for the origin"),),
    )
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert {m.url for m in result.mirrors} == {origin.url("/pub/i.img"), mirror.url("/m/i.img")}
    assert all("x-secret" not in r.fields for r in mirror.requests)
    assert any("x-secret" in r.fields for r in origin.requests)
    text = lab.metalink("i", [origin.url("/pub/i.img")], size=len(CONTENT), sha256=SHA256)
    (tmp_path / "i.meta4").write_text(text)
    fetch_sync(str(tmp_path / "i.meta4"), tmp_path / "b", origin_rules=rules, retry=0)
    assert (tmp_path / "b").read_bytes() == CONTENT


def test_a_mirror_with_another_file_is_left(
    origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path
) -> None:
    """It is behind, or has nothing: the download does without it."""
    rules = (OriginRule(origin.url("/pub/"), mirrors=(mirror.url("/m/"),)),)
    for resource in (Resource.of(CONTENT[:-5]), Resource.of(bytes(len(CONTENT))), None):
        mirror.resources.clear()
        if resource is not None:
            mirror.resources["/m/i.img"] = resource
        target = tmp_path / "out"
        target.unlink(missing_ok=True)
        fetch_sync(
            origin.url("/pub/i.img"), target, checksum=f"sha-256:{SHA256}", origin_rules=rules
        )
        assert target.read_bytes() == CONTENT


def test_credentials_go_to_their_origin_alone(
    origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path
) -> None:
    """Whoever leads there; what the command says comes first."""
    rules = (
        OriginRule(origin.url("/pub/"), headers=(("Authorization", "Bearer a"), ("X-A", "1"))),
    )
    sources = [origin.url("/pub/i.img"), mirror.url("/m/i.img")]
    fetch_sync(sources, tmp_path / "a", checksum=f"sha-256:{SHA256}", origin_rules=rules)
    assert {r.fields.get("authorization") for r in origin.requests} == {"Bearer a"}
    assert all("authorization" not in r.fields for r in mirror.requests)
    origin.requests.clear()
    fetch_sync(
        sources[0], tmp_path / "b", origin_rules=rules, headers=(("authorization", "Bearer b"),)
    )
    assert {r.fields.get("authorization") for r in origin.requests} == {"Bearer b"}
    assert {r.fields.get("x-a") for r in origin.requests} == {"1"}


def test_nothing_comes_from_a_blocked_place(
    origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path
) -> None:
    """Typed, named by a metalink, as a list, or by a redirect."""
    rules = (OriginRule(origin.url("/pub/"), blocked="taken over"),)
    with pytest.raises(PolicyError, match="blocked by the operator: taken over"):
        fetch_sync(origin.url("/pub/./i.img"), tmp_path / "a", origin_rules=rules)
    with pytest.raises(PolicyError, match="taken over"):
        probe_sync(origin.url("/pub/i.img"), origin_rules=rules)
    with pytest.raises(PolicyError, match="taken over"):
        fetch_sync(
            mirror.url("/m/i.img"),
            tmp_path / "a",
            checksum=origin.url("/pub/SHA256SUMS"),
            origin_rules=rules,
        )
    text = lab.metalink(
        "i", [origin.url("/pub/i.img"), mirror.url("/m/i.img")], size=len(CONTENT), sha256=SHA256
    )
    (tmp_path / "i.meta4").write_text(text)
    result = fetch_sync(str(tmp_path / "i.meta4"), tmp_path / "b", origin_rules=rules)
    assert any("taken over" in warning for warning in result.warnings)
    assert not origin.requests
    mirror.resources["/r/i.img"] = Resource.of(b"", rules=[Rule(redirect=origin.url("/pub/i.img"))])
    with pytest.raises(PolicyError, match="taken over"):
        fetch_sync(mirror.url("/r/i.img"), tmp_path / "c", origin_rules=rules, retry=0)
    assert not (tmp_path / "c").exists()


def test_redirects_connections_and_rate_are_the_rules(
    origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path
) -> None:
    """A rule can only narrow what the command asked for."""
    mirror.resources["/r/i.img"] = Resource.of(b"", rules=[Rule(redirect=origin.url("/pub/i.img"))])
    rules = (OriginRule(mirror.url("/r/"), follow_redirects=False),)
    with pytest.raises(PolicyError):
        fetch_sync(mirror.url("/r/i.img"), tmp_path / "a", origin_rules=rules, retry=0)
    rules = (OriginRule(origin.url("/pub/"), max_connections=1, limit_rate=2_000_000),)
    result = fetch_sync(origin.url("/pub/i.img"), tmp_path / "b", origin_rules=rules)
    assert len({r.connection for r in origin.requests}) == 1
    assert result.seconds > 1


def test_a_rules_keyring_is_demanded(origin: FaultOrigin, tmp_path: Path) -> None:
    """Policy by origin: what comes from there has to be signed."""
    with publisher() as gpg:
        (tmp_path / "keys").write_bytes(gpg.keyring("one"))
        rules = (OriginRule(origin.url("/pub/"), keyring=str(tmp_path / "keys")),)
        with pytest.raises(PolicyError, match="signed"):
            fetch_sync(origin.url("/pub/i.img"), tmp_path / "a", origin_rules=rules)
        signed = gpg.clearsigned(f"{SHA256}  i.img\n".encode(), "one")
        origin.resources["/pub/SHA256SUMS"] = Resource.of(signed)
        result = fetch_sync(
            origin.url("/pub/i.img"), tmp_path / "a", origin_rules=rules, discover=True
        )
        assert result.signed_by is not None


def test_a_proxy_is_taken_for_the_origins_that_need_it(origin: FaultOrigin, tmp_path: Path) -> None:
    """And none where the rule says so, whatever the environment has."""
    dead = "http://127.0.0.1:9"
    rules = (OriginRule(origin.url("/pub/"), proxy=dead),)
    with pytest.raises(NetError):
        fetch_sync(origin.url("/pub/i.img"), tmp_path / "a", origin_rules=rules, retry=0)
    rules = (OriginRule(origin.url("/pub/"), proxy=""),)
    fetch_sync(origin.url("/pub/i.img"), tmp_path / "a", origin_rules=rules, proxy=dead, retry=0)


def test_the_command_line_reads_the_file(
    origin: FaultOrigin, mirror: FaultOrigin, tmp_path: Path
) -> None:
    """Named, by the environment, or from the user's folder; '' for none."""
    rules = tmp_path / "fastdl" / "origins.toml"
    rules.parent.mkdir()
    rules.write_text(f'[[origin]]\nurl = "{origin.url("/pub/")}"\nblocked = "no"\n')
    get = ["get", origin.url("/pub/i.img"), "-o", str(tmp_path / "out")]
    for words, env in (
        ([*get, "--origins", str(rules)], "A=b"),
        (get, f"FASTDL_ORIGINS={rules}"),
        (get, f"XDG_CONFIG_HOME={tmp_path}"),
    ):
        done = run_fastdl(words, home=tmp_path, prefix=("env", env))
        assert done.code == PolicyError.exit_code, done.stderr
        assert "blocked by the operator: no" in done.stderr
    done = run_fastdl(
        [*get, "--origins", ""], home=tmp_path, prefix=("env", f"FASTDL_ORIGINS={rules}")
    )
    assert done.code == 0, done.stderr
    rules.write_text("[[origin]]\n")
    done = run_fastdl([*get, "--origins", str(rules)], home=tmp_path)
    assert (done.code, "a rule has a url" in done.stderr) == (2, True)
