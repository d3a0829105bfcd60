# SPDX-License-Identifier: Apache-2.0
"""Who has the bytes, how many, which digests: is every source's word weighed as it should be?"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fastdl.engine.cancel import Cancel
from fastdl.engine.context import TransferContext
from fastdl.engine.options import FetchOptions
from fastdl.engine.source.facts import SourceFacts
from fastdl.engine.source.first_response import HEAD_BYTES, FirstResponse
from fastdl.engine.source.resolve import resolve
from fastdl.errors import (
    Cancelled,
    HttpStatusError,
    IntegrityError,
    MetalinkError,
    NetError,
    PolicyError,
    SizeError,
    TrustError,
    UsageError,
)
from fastdl.lab import metalink as lab
from tests.env.faults import Rule, When
from tests.env.origin import FaultOrigin, Resource, pseudo_random

CONTENT = pseudo_random(9, 300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def metalink(*urls: str, size: int = len(CONTENT), digest: str = DIGEST) -> bytes:
    return lab.metalink("i", urls, size=size, sha256=digest).encode()


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/i": Resource.of(CONTENT), "/j": Resource.of(CONTENT)}) as server:
        yield server


class Found(NamedTuple):
    """What the stage found: the facts, and the response that was open."""

    facts: SourceFacts
    response: FirstResponse


def ask(*sources: str, cancel: Cancel | None = None, **options: object) -> Found:
    """Resolve *sources* as for a transfer, without one."""
    made = FetchOptions.build(**({"retry": 0} | options))
    found = Found(*resolve(sources, TransferContext(made, cancel or Cancel())))
    found.response.close()
    return found


def test_one_request_tells_everything_about_a_plain_url(origin: FaultOrigin) -> None:
    """A HEAD before the GET would be a round trip for nothing."""
    found = ask(origin.url("/i"))
    assert found.facts.size == len(CONTENT)
    assert found.response.head == CONTENT[:HEAD_BYTES]
    assert [r.method for r in origin.requests] == ["GET"]
    assert found.facts.digests.integrity() == "none"
    assert not found.facts.one_response
    assert found.facts.warnings == ()


def test_a_metalink_brings_mirrors_size_and_digest(origin: FaultOrigin, tmp_path: Path) -> None:
    """Whether by its name or by its media type."""
    data = metalink(origin.url("/i"), origin.url("/j"))
    (tmp_path / "i.meta4").write_bytes(data)
    origin.resources["/dyn"] = Resource.of(data, content_type="application/metalink4+xml")
    origin.resources["/chunked"] = Resource.of(
        data,
        content_type="application/metalink4+xml",
        rules=[Rule(ignore_range=True, chunked="right")],
    )
    for source in (str(tmp_path / "i.meta4"), origin.url("/dyn"), origin.url("/chunked")):
        found = ask(source)
        assert [u.display() for u in found.facts.urls] == [origin.url("/i"), origin.url("/j")]
        assert found.facts.size == len(CONTENT)
        assert found.facts.digests.to_dict() == {"sha-256": DIGEST}
        assert found.facts.provable


def test_a_metalink_that_leads_to_a_metalink_is_refused(origin: FaultOrigin) -> None:
    """Documents that lead to documents have no end."""
    origin.resources["/m"] = Resource.of(
        metalink(origin.url("/m2")), content_type="application/metalink4+xml"
    )
    second = metalink(origin.url("/i"))
    origin.resources["/m2"] = Resource.of(second, content_type="application/metalink4+xml")
    with pytest.raises(SizeError, match=f"has {len(second)} bytes"):
        ask(origin.url("/m"))
    origin.resources["/m"] = Resource.of(
        metalink(origin.url("/m2"), size=len(second)), content_type="application/metalink4+xml"
    )
    with pytest.raises(MetalinkError, match="leads to another metalink"):
        ask(origin.url("/m"))
    assert not origin.requests_of("/i")


def test_contradictions_are_errors(origin: FaultOrigin, tmp_path: Path) -> None:
    """Nobody can tell which of two truths is the right one."""
    for name, data in (
        ("size", metalink(origin.url("/i"), size=5)),
        ("a", metalink(origin.url("/i"))),
        ("b", metalink(origin.url("/j"), size=7)),
    ):
        (tmp_path / f"{name}.meta4").write_bytes(data)
    with pytest.raises(SizeError):
        ask(str(tmp_path / "size.meta4"))
    with pytest.raises(SizeError):
        ask(str(tmp_path / "a.meta4"), str(tmp_path / "b.meta4"))
    with pytest.raises(IntegrityError):
        ask(str(tmp_path / "a.meta4"), checksum="sha-256:" + "1" * 64)


def test_a_dead_mirror_costs_a_remark_not_the_transfer(origin: FaultOrigin) -> None:
    """The others have the same bytes."""
    found = ask("http://127.0.0.1:1/i", origin.url("/gone"), origin.url("/i"))
    assert found.facts.urls[found.response.index].display() == origin.url("/i")
    assert sum("127.0.0.1:1" in w or "/gone" in w for w in found.facts.warnings) == 2
    with pytest.raises(NetError):
        ask("http://127.0.0.1:1/i", "http://127.0.0.1:1/j")
    with pytest.raises(HttpStatusError) as caught:
        ask(origin.url("/gone"))
    assert caught.value.origin == origin.url("/gone")
    assert caught.value.phase == "resolve"


def test_a_temporary_failure_is_asked_again(origin: FaultOrigin) -> None:
    """A server that restarts is not a reason to give a download up."""
    origin.resources["/i"].rules.append(Rule(when=When(last_nth=2), status=503))
    assert ask(origin.url("/i"), retry=2).facts.size == len(CONTENT)
    assert len(origin.requests_of("/i")) == 3


def test_a_silent_origin_is_left_when_cancelled(origin: FaultOrigin) -> None:
    """Ctrl-C must not wait for the stall time."""
    origin.resources["/i"].rules.append(Rule(silent=True))
    cancel = Cancel()
    asked = threading.Thread(
        target=lambda: (origin.wait_for(lambda: len(origin.requests) > 0), cancel.cancel())
    )
    asked.start()
    with pytest.raises(Cancelled):
        ask(origin.url("/i"), cancel=cancel, stall_timeout=600.0)
    asked.join(10)


def test_the_operators_headers_go_to_their_origin_only(origin: FaultOrigin, tmp_path: Path) -> None:
    """A metalink's mirror must not learn the token of the site it was found on."""
    (tmp_path / "i.meta4").write_bytes(metalink(origin.url("/i")))
    ask(origin.url("/j"), headers=[("X-Token", "secret")])
    ask(str(tmp_path / "i.meta4"), headers=[("X-Token", "secret")])
    assert origin.requests_of("/j")[0].fields.get("x-token") == "secret"
    assert all("x-token" not in r.fields for r in origin.requests_of("/i"))


def test_a_required_checksum_must_be_there(origin: FaultOrigin) -> None:
    """The option is a promise to somebody."""
    with pytest.raises(PolicyError):
        ask(origin.url("/i"), require_checksum=True)
    assert ask(origin.url("/i"), require_checksum=True, checksum=DIGEST).facts.provable


def test_what_cannot_be_used_is_refused_before_any_request(tmp_path: Path) -> None:
    """A typing error costs no network."""
    for sources, options, error in (
        ((), {}, UsageError),
        (("ftp://a/b",), {}, PolicyError),
        (("http://127.0.0.1/",), {"cacert": str(tmp_path / "none.pem")}, TrustError),
        ((str(tmp_path / "absent"),), {}, NetError),
    ):
        with pytest.raises(error):
            ask(*sources, **options)
