# SPDX-License-Identifier: Apache-2.0
"""A checksum may be the URL of a list: a host fetches it at registration, and it is fixed then."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.errors import (
    ChecksumListError,
    FastdlError,
    HttpStatusError,
)
from fastdl.wire import codec
from fastdl.wire import messages as m
from fastdl.wire.packed import pack
from tests.env.fake_agent import ALL_KINDS, FakeAgent, Work
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone

DIGEST = hashlib.sha256(b"image").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
LIST = "https://mirror.example/SHA256SUMS"


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A zone without hosts."""
    async with running_zone(tmp_path) as made:
        yield made


def serving(text: bytes | None, *, public: bool = True, asked: list[m.DocumentsArgs]) -> Work:
    """A host that brings *text* as every list."""

    async def work(_agent: FakeAgent, command: m.Command) -> m.Done | m.Failure:
        assert isinstance(command.args, m.DocumentsArgs)
        asked.append(command.args)
        if text is None:
            return codec.failure_of(HttpStatusError("status 404", http_status=404))
        return m.DocumentsDone(documents=(pack(text),), public_source=public)

    return work


async def host(zone: Zone, text: bytes | None, *, public: bool = True) -> list[m.DocumentsArgs]:
    """Connect a host that serves *text*; what it was asked."""
    asked: list[m.DocumentsArgs] = []
    work = {m.Kind.DOCUMENTS: serving(text, public=public, asked=asked)}
    await zone.agent("kvm1", kinds=ALL_KINDS, work=work)
    return asked


async def test_the_list_is_fetched_by_a_host_and_fixed(zone: Zone) -> None:
    """Whoever registers sees the digest that will be demanded, and where it is from."""
    asked = await host(zone, f"{OTHER} *a.qcow2\n{DIGEST} *u24.qcow2\n".encode())
    item = await zone.template("u24", checksum=LIST)
    assert (item["checksum"], item["checksumsource"]) == (DIGEST, LIST)
    assert "signedby" not in item
    assert [args.transfer.sources for args in asked] == [(LIST,)]
    again = await zone.api("listTemplates", templatefilter="all", id=item["id"])
    assert again["template"][0]["checksum"] == DIGEST


async def test_an_entry_of_another_name_is_named_behind_the_url(zone: Zone) -> None:
    """As on the command line."""
    await host(zone, f"{DIGEST}  build-42.qcow2\n".encode())
    item = await zone.template("u24", checksum=f"{LIST}#build-42.qcow2")
    assert item["checksum"] == DIGEST


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"{DIGEST}  other.qcow2\n".encode(), ChecksumListError),
        (f"{DIGEST}  u24.qcow2\n{OTHER}  u24.qcow2\n".encode(), ChecksumListError),
        (b"<html>", ChecksumListError),
        (None, HttpStatusError),
    ],
)
async def test_what_leaves_the_digest_open_fails_at_registration(
    zone: Zone, text: bytes | None, error: type[FastdlError]
) -> None:
    """While somebody looks, and not when the first VM is deployed."""
    await host(zone, text)
    with pytest.raises(FastdlError) as failed:
        await zone.template("u24", checksum=LIST)
    assert LIST in failed.value.message
    assert "SHA256SUMS failed" in failed.value.message or error is HttpStatusError
    assert not (await zone.api("listTemplates", templatefilter="all")).get("template")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/SHA256SUMS",
        "http://169.254.169.254/SHA256SUMS",
        "file:///etc/SHA256SUMS",
        "nfs://server/SHA256SUMS",
        "https://u:p@mirror.example/SHA256SUMS",
    ],
)
async def test_a_list_is_where_a_template_could_be(zone: Zone, url: str) -> None:
    """The same policy: no host is asked about what no template may come from."""
    asked = await host(zone, b"")
    with pytest.raises(FastdlError):
        await zone.template("u24", checksum=url)
    assert not asked


async def test_a_tenant_reads_nothing_of_a_list_inside(zone: Zone) -> None:
    """Names in a file behind the hosts are not a tenant's to see."""
    await host(zone, f"{DIGEST}  u24-secret.qcow2\n".encode(), public=False)
    user = (
        await zone.api(
            "createAccount",
            username="bob",
            password="pw-12345678",
            email="b@x.example",
            firstname="b",
            lastname="b",
            accounttype="0",
        )
    )["account"]["user"][0]
    keys = (await zone.api("registerUserKeys", id=user["id"]))["userkeys"]
    client = Client({**zone.api.credentials, **{k: keys[k] for k in ("apikey", "secretkey")}})
    with pytest.raises(FastdlError) as failed:
        await client(
            "registerTemplate",
            name="u24",
            url="https://mirror.example/u24.qcow2",
            format="QCOW2",
            hypervisor="KVM",
            zoneid=zone.id,
            directdownload="true",
            checksum=LIST,
        )
    assert "secret" not in failed.value.message
    assert "administrators only" in failed.value.message


async def test_an_older_host_is_not_asked(zone: Zone) -> None:
    """It would not understand; whoever registers is told so."""
    await zone.agent("old", kinds=tuple(kind for kind in ALL_KINDS if kind != m.Kind.DOCUMENTS))
    with pytest.raises(FastdlError, match="Couldn't find a host to fetch"):
        await zone.template("u24", checksum=LIST)


async def test_a_list_that_contradicts_the_source_is_refused(zone: Zone) -> None:
    """One of them describes another file."""

    async def probe(_agent: FakeAgent, _command: m.Command) -> m.Done:
        return m.ProbeDone(size=5, digests={"sha-256": OTHER})

    work = {
        m.Kind.DOCUMENTS: serving(f"{DIGEST}  u24.qcow2\n".encode(), asked=[]),
        m.Kind.PROBE: probe,
    }
    await zone.agent("kvm1", kinds=ALL_KINDS, work=work)
    with pytest.raises(FastdlError, match="different SHA-256 values"):
        await zone.template("u24", checksum=LIST)
