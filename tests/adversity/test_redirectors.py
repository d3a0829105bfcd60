# SPDX-License-Identifier: Apache-2.0
"""What does a redirector know, and what happens where the copy that it names is bad?

MirrorBrain, MirrorCache and mirrorbits answer a file's URL with a redirect to a mirror, and
say in the same response which digest the file has and who else has it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import fastdl
from fastdl.errors import FastdlError, HttpProtocolError, IntegrityError, PolicyError
from fastdl.lab.metalink import metalink_of
from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, Version, pseudo_random

CONTENT = pseudo_random(61, 3 << 20)
WRONG = bytes(b ^ 1 for b in CONTENT)
SHA256 = hashlib.sha256(CONTENT)
CHECKSUM = f"sha-256:{SHA256.hexdigest()}"
DIGEST = ("Digest", f"SHA-256={base64.b64encode(SHA256.digest()).decode()}")
REPR_DIGEST = ("Repr-Digest", f"sha-256=:{base64.b64encode(SHA256.digest()).decode()}:")


@pytest.fixture
def origins() -> Iterator[contextlib.ExitStack]:
    """Where a test's servers live."""
    with contextlib.ExitStack() as stack:
        yield stack


def server(
    origins: contextlib.ExitStack, content: bytes = CONTENT, *rules: Rule, **more: Any
) -> FaultOrigin:
    """A mirror with *content* at /x.iso."""
    tag = more.pop("etag", '"v1"')
    version = Version(content=content, etag=tag)
    resource = Resource(versions=[version], rules=list(rules), **more)
    return origins.enter_context(FaultOrigin({"/x.iso": resource}))


def hub(
    origins: contextlib.ExitStack, *copies: str, fields: Sequence[tuple[str, str]] = ()
) -> FaultOrigin:
    """A redirector that names one of *copies* after the other, the last one for ever."""
    last = len(copies)
    rules = [
        Rule(
            when=When(first_nth=n, last_nth=n if n < last else 2**62),
            redirect=copy,
            add=tuple(fields),
        )
        for n, copy in enumerate(copies, 1)
    ]
    made = FaultOrigin({"/x.iso": Resource.of(CONTENT, rules=rules)})
    return origins.enter_context(made)


def fetch(tmp_path: Path, origin: FaultOrigin, **options: Any) -> fastdl.Result:
    """Fetch /x.iso from *origin*; what was published must be right."""
    target = tmp_path / "x.iso"
    values: dict[str, Any] = {"stall_timeout": 1.0, "connect_timeout": 5.0, "retry": 1}
    try:
        return fastdl.fetch_sync([origin.url("/x.iso")], target, **(values | options))
    finally:
        assert not target.exists() or target.read_bytes() == CONTENT
        assert not target.exists() or [p.name for p in tmp_path.iterdir()] == ["x.iso"]


# ---- what is learned ---------------------------------------------------------------------


@pytest.mark.parametrize("digest", [DIGEST, REPR_DIGEST])
def test_the_digest_of_a_redirect_is_asked_of_the_copy(
    digest: tuple[str, str], origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """A stale mirror behind a redirector that knows better publishes nothing."""
    stale = server(origins, WRONG)
    front = hub(origins, stale.url("/x.iso"), fields=[digest])
    with pytest.raises(IntegrityError, match="redirector"):
        fetch(tmp_path, front)
    good = hub(origins, server(origins).url("/x.iso"), fields=[digest])
    assert fetch(tmp_path, good).integrity == "strong"


def test_the_mirrors_of_a_redirect_are_used(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """The first copy is stale: the others are known, and the digest tells which is right."""
    stale, good = server(origins, WRONG), server(origins)
    links = [
        ("Link", f"<{copy.url('/x.iso')}>; rel=duplicate; pri={n}; geo=de")
        for n, copy in enumerate((stale, good), 1)
    ]
    front = hub(origins, stale.url("/x.iso"), fields=[DIGEST, *links])
    result = fetch(tmp_path, front)
    assert result.integrity == "strong"
    assert good.sent >= len(CONTENT)


def test_mirrors_without_a_digest_are_used_under_the_commands_checksum(
    origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """RFC 6249 wants a digest with mirrors; the one that was typed is as good."""
    dead, good = server(origins, CONTENT, Rule(status=503)), server(origins)
    link = ("Link", f"<{good.url('/x.iso')}>; rel=duplicate")
    front = hub(origins, server(origins, WRONG).url("/x.iso"), fields=[link])
    assert dead
    assert fetch(tmp_path, front, checksum=CHECKSUM).integrity == "strong"


@pytest.mark.parametrize("status", [None, 404])
def test_a_redirect_to_a_dead_copy_names_others(
    origins: contextlib.ExitStack, tmp_path: Path, status: int | None
) -> None:
    """A mirror's database is behind: the copy that was chosen is down, or lost the file."""
    good = server(origins)
    if status is None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{unused.getsockname()[1]}/x.iso"
    else:
        dead = server(origins, CONTENT, Rule(status=status)).url("/x.iso")
    link = ("Link", f"<{good.url('/x.iso')}>; rel=duplicate; pri=2")
    result = fetch(tmp_path, hub(origins, dead, fields=[link, DIGEST]), retry=5)
    assert result.integrity == "strong"
    assert sum(m.bytes for m in result.mirrors if m.url == good.url("/x.iso")) >= len(CONTENT)


def test_a_dead_copy_with_no_other_is_asked_for_again(
    origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """What a redirect names besides may be no more than the dead copy itself."""
    good = server(origins)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/x.iso"
    link = ("Link", f"<{dead}>; rel=duplicate; pri=1")
    redirector = hub(origins, dead, dead, good.url("/x.iso"), fields=[link, DIGEST])
    assert fetch(tmp_path, redirector, retry=5).integrity == "strong"


def test_a_metalink_of_a_redirect_is_read(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """``describedby``: size, digest and mirrors from one document."""
    good = server(origins)
    front = hub(
        origins,
        server(origins, WRONG).url("/x.iso"),
        fields=[("Link", '</x.meta4>; rel=describedby; type="application/metalink4+xml"')],
    )
    front.resources["/x.meta4"] = Resource.of(
        metalink_of(CONTENT, [good.url("/x.iso")], name="x.iso").encode()
    )
    assert fetch(tmp_path, front).integrity == "strong"
    assert good.sent >= len(CONTENT)


def test_headers_do_not_follow_a_described_metalink(
    origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """A stranger's document that names a stranger's mirror gets nobody's credentials."""
    stranger, good = server(origins), server(origins)
    document = metalink_of(CONTENT, [stranger.url("/x.iso")], name="x.iso")
    stranger.resources["/x.meta4"] = Resource.of(document.encode())
    where = stranger.url("/x.meta4")
    good.resources["/x.iso"].rules = [Rule(status=503, when=When(first_nth=3))]
    good.resources["/x.iso"].headers = [
        ("Link", f'<{where}>; rel=describedby; type="application/metalink4+xml"')
    ]
    fetch(tmp_path, good, headers=[("Authorization", "Bearer s3cret")])
    assert all("authorization" in r.fields for r in good.requests)
    assert stranger.requests_of("/x.iso")
    assert all("authorization" not in r.fields for r in stranger.requests)


def test_a_mirror_with_another_files_digest_is_left_to_the_others(
    origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """One server that announces another file does not stop the job; alone it does (21)."""
    other = base64.b64encode(hashlib.sha256(WRONG).digest()).decode()
    stale = server(origins, WRONG, headers=[("Repr-Digest", f"sha-256=:{other}:")])
    good = server(origins)
    target = tmp_path / "x.iso"
    result = fastdl.fetch_sync([stale.url("/x.iso"), good.url("/x.iso")], target, checksum=CHECKSUM)
    assert target.read_bytes() == CONTENT
    assert {m.url: m.state for m in result.mirrors}[stale.url("/x.iso")] == "disqualified"
    with pytest.raises(IntegrityError):
        fastdl.fetch_sync([stale.url("/x.iso")], tmp_path / "y.iso", checksum=CHECKSUM)


# ---- a bad copy ----------------------------------------------------------------------------

FAULTS = {
    "404": Rule(status=404),
    "403": Rule(status=403),
    "503": Rule(status=503),
    "429": Rule(status=429, set={"Retry-After": "500"}),
    "reset": Rule(head_cut=0, reset=True),
    "reset-mid-way": Rule(body_cut=-1000, reset=True),
    "cut-mid-way": Rule(body_cut=300_000),
    "silent": Rule(silent=True),
    "stalls": Rule(stall_at=300_000),
    "rubbish": Rule(raw_head="SSH-2.0-OpenSSH_9.2\r\n\r\n"),
}


@pytest.mark.parametrize("checksum", [None, CHECKSUM])
@pytest.mark.parametrize("fault", FAULTS)
def test_another_copy_is_asked_for(
    fault: str, checksum: str | None, origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Whatever goes wrong where a redirect led, the typed URL may know another place."""
    bad = server(origins, CONTENT, FAULTS[fault])
    good = server(origins)
    front = hub(origins, bad.url("/x.iso"), good.url("/x.iso"))
    options = {} if checksum is None else {"checksum": checksum}
    assert fetch(tmp_path, front, **options).source_bytes == len(CONTENT)
    assert len(front.requests) >= 2


@pytest.mark.parametrize("rule", [Rule(total_delta=-5), Rule(corrupt=2_000_000)])
def test_a_copy_with_wrong_bytes_is_replaced(
    rule: Rule, origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Where a checksum tells; the same copy again is not fetched again."""
    bad = server(origins, CONTENT, rule)
    front = hub(origins, bad.url("/x.iso"), server(origins).url("/x.iso"))
    assert fetch(tmp_path, front, checksum=CHECKSUM).integrity == "strong"
    (tmp_path / "x.iso").unlink()
    bad.sent = 0
    with pytest.raises(IntegrityError):
        fetch(tmp_path, hub(origins, bad.url("/x.iso")), checksum=CHECKSUM)
    assert bad.sent < 1.6 * len(CONTENT)


def test_a_copy_that_fails_later_is_replaced(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """The first responses were right: the copy dies while several connections use it, and the
    next one has other validators."""
    dying = server(
        origins, CONTENT, Rule(when=When(first_nth=2), status=404), etag='"of-the-first"'
    )
    good = server(origins, CONTENT, etag='"of-the-second"')
    front = hub(origins, dying.url("/x.iso"), good.url("/x.iso"))
    result = fetch(tmp_path, front, checksum=CHECKSUM, block_size=64 << 10)
    assert result.mirrors[0].state == "ok"
    assert good.sent > 0


def test_a_copy_that_is_not_connected_to(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """Refused: nobody listens there any more."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"http://127.0.0.1:{gone.getsockname()[1]}/x.iso"
    front = hub(origins, dead, server(origins).url("/x.iso"))
    fetch(tmp_path, front)


def test_a_copy_that_is_not_trusted(
    certs: CertLab, origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """TLS: one mirror's certificate is for another name."""
    context = certs.leaf("unknown-ca").server_context()
    strange = FaultOrigin({"/x.iso": Resource.of(WRONG)}, tls=context)
    origins.enter_context(strange)
    front = hub(origins, strange.url("/x.iso"), server(origins).url("/x.iso"))
    fetch(tmp_path, front)
    assert strange.requests == []


def test_the_same_bad_copy_again_ends_it(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """A redirector that knows one copy only is asked once more, not for ever."""
    bad = server(origins, CONTENT, Rule(status=404))
    front = hub(origins, bad.url("/x.iso"))
    with pytest.raises(FastdlError) as caught:
        fetch(tmp_path, front)
    assert caught.value.exit_code == 11
    assert (len(front.requests), len(bad.requests)) == (2, 1)


# ---- cookies -------------------------------------------------------------------------------


def test_a_cookie_set_on_the_way_goes_back(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """Some servers redirect in a circle until it does."""
    unseen = When(last_nth=1)
    rule = Rule(when=unseen, redirect="/x.iso", add=(("Set-Cookie", "seen=1; Path=/; HttpOnly"),))
    origin = server(origins, CONTENT, rule)
    fetch(tmp_path, origin, checksum=CHECKSUM)
    assert [r.fields.get("cookie") for r in origin.requests[:2]] == [None, "seen=1"]


def test_cookies_stay_with_their_host(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """Another host, another path, another scheme and an ended cookie get nothing."""
    copy = FaultOrigin({"/x.iso": Resource.of(CONTENT)}, name="localhost")
    origins.enter_context(copy)
    cookies = (
        "own=1; Path=/x",
        "path=1; Path=/elsewhere",
        "secure=1; Secure",
        "tld=1; Domain=localhost",
        "all=1; Domain=example",
        "over=1; Max-Age=0",
        "past=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT",
        "nothing",
        "=nameless",
    )
    way = Rule(
        when=When(last_nth=1), redirect="/x.iso", add=tuple(("Set-Cookie", c) for c in cookies)
    )
    on = Rule(redirect=copy.url("/x.iso"))
    front = server(origins, CONTENT, way, on)
    fetch(tmp_path, front, checksum=CHECKSUM)
    assert front.requests[1].fields.get("cookie") is None
    assert all("cookie" not in r.fields for r in copy.requests)


def test_the_callers_cookie_wins(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """A field of that name was given: ours is not sent beside it."""
    way = Rule(when=When(last_nth=1), redirect="/x.iso", add=(("Set-Cookie", "a=server"),))
    origin = server(origins, CONTENT, way)
    fetch(tmp_path, origin, headers=[("Cookie", "a=caller")], checksum=CHECKSUM)
    assert {r.fields.get("cookie") for r in origin.requests} == {"a=caller"}


# ---- limits --------------------------------------------------------------------------------


def test_a_location_of_16_kib_is_followed(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """Signed links with a policy in them are that long; more is refused."""
    query = "sig=" + "a" * (16 * 1024 - len("/x.iso?sig="))
    origin = server(origins, CONTENT, Rule(when=When(last_nth=1), redirect=f"/x.iso?{query}"))
    fetch(tmp_path, origin, checksum=CHECKSUM)
    assert {r.query for r in origin.requests[1:]} == {query}
    longer = server(origins, CONTENT, Rule(redirect=f"/x.iso?{query}a"))
    with pytest.raises(HttpProtocolError, match="16 KiB"):
        fetch(tmp_path, longer, target_format="same", overwrite="file")


@pytest.mark.parametrize(("size", "fine"), [(60 * 1024, True), (80 * 1024, False)])
def test_64_kib_of_fields_are_read(
    size: int, fine: bool, origins: contextlib.ExitStack, tmp_path: Path
) -> None:
    """A policy field alone may be longer than a whole head once was."""
    fields = [("Content-Security-Policy", "a " * (size // 2))]
    origin = server(origins, CONTENT, headers=fields)
    if fine:
        fetch(tmp_path, origin, checksum=CHECKSUM)
        return
    with pytest.raises(HttpProtocolError):
        fetch(tmp_path, origin, checksum=CHECKSUM)


def test_redirects_lead_to_no_other_service(origins: contextlib.ExitStack, tmp_path: Path) -> None:
    """Well-known ports are nobody's to name, the command line's policy included."""
    for port in (22, 25, 111, 445, 873):
        front = hub(origins, f"http://127.0.0.1:{port}/x.iso")
        with pytest.raises(PolicyError, match="port"):
            fetch(tmp_path, front)
        assert len(front.requests) == 1
