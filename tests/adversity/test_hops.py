# SPDX-License-Identifier: Apache-2.0
"""Does the class of an address go along with everything that comes from there?

Chains of redirects, metalinks over every protocol, names that resolve to several places or to
another one the next time, proxies: wherever the way began, it leads no further inside.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.certs import CertLab
from tests.env.faults import Rule, When
from tests.env.names import name_server
from tests.env.nfs import NfsServer, nfs_server
from tests.env.origin import FaultOrigin, Resource
from tests.env.sides import (
    IMAGE,
    METADATA,
    NAMESERVER,
    PRIVATE,
    PUBLIC,
    PUBLIC_TOO,
    Net,
    metalink,
)

STRICT = ("--policy", "strict")
DIGEST = base64.b64encode(hashlib.sha256(IMAGE).digest()).decode()


# ---- chains --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [(), STRICT], ids=["user", "strict"])
def test_a_way_out_is_no_way_back_in(net: Net, policy: tuple[str, ...]) -> None:
    """private → public → private: the last word was the outside's."""
    net.typed.resources["/image.raw"].rules = [Rule(redirect=net.url(PRIVATE))]
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE, rules=[Rule(redirect=net.typed.url("/image.raw"))])},
        listener=net.space.listen(PRIVATE),
        name=PRIVATE,
    ) as inside:
        net.check_refused(net.get(inside.url("/image.raw"), *policy))
        assert net.typed.requests


@pytest.mark.parametrize("policy", [(), STRICT], ids=["user", "strict"])
def test_a_private_host_may_lead_to_private_hosts(net: Net, policy: tuple[str, ...]) -> None:
    """That is what mirrors in a datacenter do."""
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE, rules=[Rule(redirect=net.url(PRIVATE))])},
        listener=net.space.listen(PRIVATE),
        name=PRIVATE,
    ) as inside:
        net.check_fetched(net.get(inside.url("/image.raw"), *policy))


def test_the_operator_excepts_networks_and_never_metadata(net: Net) -> None:
    """An exception is his word on every hop."""
    net.typed.resources["/image.raw"].rules = [Rule(redirect=net.url(PRIVATE))]
    url = net.typed.url("/image.raw")
    net.check_fetched(net.get(url, *STRICT, "--allow", "10.77.0.0/16"))
    net.typed.resources["/image.raw"].rules = [Rule(redirect=f"http://{METADATA}/")]
    refused = net.get(url, *STRICT, "--allow", "0.0.0.0/0", "--overwrite", "file")
    assert (refused.code, refused.classes) == (15, ["POLICY"]), refused


def test_a_described_metalink_is_checked_by_where_it_came_from(net: Net) -> None:
    """A private server names a metalink outside; what stands in it is the outside's word."""
    net.typed.resources["/x.meta4"] = metalink(net.url(PRIVATE))
    where = net.typed.url("/x.meta4")
    link = ("Link", f'<{where}>; rel=describedby; type="application/metalink4+xml"')
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE, headers=[link])},
        listener=net.space.listen(PRIVATE),
        name=PRIVATE,
    ) as inside:
        net.check_fetched(net.get(inside.url("/image.raw")))
        assert net.typed.requests_of("/x.meta4")
    assert net.other.connections == 0


def test_an_https_source_trusts_no_metalink_over_http(net: Net, certs: CertLab) -> None:
    """Its digests would be anybody's on the way."""
    where = net.url("127.0.0.1", "/x.meta4")
    link = ("Link", f'<{where}>; rel=describedby; type="application/metalink4+xml"')
    net.other.resources["/x.meta4"] = metalink(net.url("127.0.0.1"))
    leaf = certs.leaf("good")
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE, headers=[link])},
        listener=net.space.listen("127.0.0.1"),
        tls=leaf.server_context(),
    ) as secure:
        done = net.get(secure.url("/image.raw"), "--cacert", str(certs.ca.cert_file))
        net.check_fetched(done)
    assert net.other.requests == []


@pytest.mark.parametrize("to", ["file:///etc/hostname", "/etc/hostname", "FILE:/etc/hostname"])
def test_nothing_leads_to_a_local_file(net: Net, to: str) -> None:
    """Neither from outside nor in a local metalink: files are named on the command line."""
    net.typed.resources["/x.meta4"] = metalink(to)
    net.check_refused(net.get(net.typed.url("/x.meta4")))
    local = net.folder / "x.meta4"
    local.write_bytes(metalink(to).version.content)
    net.check_refused(net.get(str(local)))


def test_a_local_metalink_leads_to_no_metadata_service(net: Net) -> None:
    """It is the operator's, as far as he wrote it: many were downloaded."""
    local = net.folder / "x.meta4"
    local.write_bytes(metalink(f"http://{METADATA}:{net.other.port}/image.raw").version.content)
    net.check_refused(net.get(str(local)))
    local.write_bytes(metalink(net.url("127.0.0.1")).version.content)
    net.check_fetched(net.get(str(local)))


@pytest.mark.parametrize("by", ["name", "type"])
def test_a_metalink_leads_to_no_metalink(net: Net, by: str) -> None:
    """By its name it is refused; by its type that mirror is, and no XML becomes an image."""
    inner = metalink(net.url(PUBLIC_TOO))
    net.typed.resources["/inner.meta4" if by == "name" else "/inner"] = inner
    to = net.typed.url("/inner.meta4" if by == "name" else "/inner")
    net.typed.resources["/x.meta4"] = metalink(to)
    done = net.get(net.typed.url("/x.meta4"))
    assert done.code in (20, 22), done
    assert net.other.connections == 0
    assert list((net.folder / "pool").iterdir()) == []


# ---- names ---------------------------------------------------------------------------------


def test_of_a_name_with_two_addresses_only_the_allowed_one_is_used(net: Net) -> None:
    """The private one is not even tried."""
    with (
        FaultOrigin({}, listener=net.space.listen(PRIVATE)) as inside,
        FaultOrigin(
            {"/image.raw": Resource.of(IMAGE)}, listener=net.space.listen(PUBLIC_TOO, inside.port)
        ) as outside,
    ):
        to = f"http://mixed.test:{inside.port}/image.raw"
        net.typed.resources["/image.raw"].rules = [Rule(redirect=to)]
        net.check_fetched(net.get(net.typed.url("/image.raw")))
        assert outside.requests
        assert inside.connections == 0


def test_an_allowed_address_that_is_dead_leads_to_no_other(net: Net) -> None:
    """Falling back from a public address to a private one is a hop too."""
    with FaultOrigin({"/image.raw": Resource.of(IMAGE)}, listener=net.space.listen(PRIVATE)) as in_:
        to = f"http://mixed.test:{in_.port}/image.raw"
        net.typed.resources["/image.raw"].rules = [Rule(redirect=to)]
        refused = net.get(net.typed.url("/image.raw"))
        assert refused.code in (10, 15), refused
        assert in_.connections == 0


def test_a_name_that_changes_its_mind_is_checked_each_time(net: Net) -> None:
    """DNS rebinding: outside when it was typed, inside when the redirect comes to it again."""
    with (
        name_server(net.space.names(NAMESERVER), {"rebind.test": [PUBLIC_TOO, PRIVATE]}) as names,
        FaultOrigin({"/second.raw": Resource.of(IMAGE)}, listener=net.space.listen(PRIVATE)) as in_,
        FaultOrigin({}, listener=net.space.listen(PUBLIC_TOO, in_.port)) as outside,
    ):
        to = f"http://rebind.test:{in_.port}/second.raw"
        outside.resources["/image.raw"] = Resource.of(IMAGE, rules=[Rule(redirect=to, close=True)])
        refused = net.get(f"http://rebind.test:{in_.port}/image.raw")
        assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
        assert outside.requests
        assert in_.connections == 0
        assert names.asked["rebind.test"] >= 2


def test_a_name_of_loopback_from_the_network_is_refused(net: Net) -> None:
    """Whatever a stranger's name server says: what counts is where the connection goes."""
    answers = {"local.test": ["127.0.0.1"], "meta.test": [METADATA], "zero.test": ["0.0.0.0"]}
    with name_server(net.space.names(NAMESERVER), answers):
        for name in answers:
            net.check_refused(net.get(net.url(name), *STRICT))


# ---- NFS -----------------------------------------------------------------------------------


@pytest.fixture
def exported(net: Net, tmp_path: Path) -> Iterator[NfsServer]:
    """An NFS server that takes every address of the namespace."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "image.raw").write_bytes(IMAGE)
    with nfs_server(folder, tmp_path / "nfs", space=net.space) as server:
        yield server


def nfs(server: NfsServer, host: str, name: str, query: str = "") -> str:
    """The URL of a file at *host*, with what a document may write in it."""
    return f"nfs://{host}:{server.nfs_port}/export/images/{name}{query}"


def test_a_metalink_over_nfs_is_nobodys_word(net: Net, exported: NfsServer) -> None:
    """A public NFS server leads to no private one, to no metadata service, to no file."""
    for to in (
        nfs(exported, PRIVATE, "image.raw"),
        nfs(exported, "127.0.0.1", "image.raw"),
        nfs(exported, PUBLIC_TOO, "image.raw", "?uid=0"),
        nfs(exported, PUBLIC_TOO, "image.raw", "?gid=0&amp;version=4"),
        net.url(PRIVATE),
        net.url(METADATA),
        "file:///etc/hostname",
    ):
        (exported.folder / "x.meta4").write_bytes(metalink(to).version.content)
        refused = net.get(nfs(exported, PUBLIC, "x.meta4"))
        assert (refused.code, refused.classes) == (15, ["POLICY"]), (to, refused)
        assert list((net.folder / "pool").iterdir()) == []
    assert net.other.connections == 0


def test_a_metalink_over_nfs_leads_to_its_equals(net: Net, exported: NfsServer) -> None:
    """Private to private, and out."""
    for to in (nfs(exported, PRIVATE, "image.raw"), net.url(PUBLIC_TOO)):
        (exported.folder / "x.meta4").write_bytes(metalink(to).version.content)
        net.check_fetched(net.get(nfs(exported, PRIVATE, "x.meta4")))
        (net.folder / "pool" / "image.img").unlink()


@pytest.mark.parametrize("host", [PUBLIC, PRIVATE, "127.0.0.1", "inside.test", "mixed.test"])
def test_the_strict_policy_speaks_nfs_with_listed_servers_only(
    net: Net, exported: NfsServer, host: str
) -> None:
    """A server that exports disks to the host shows them to whoever may name it."""
    url = nfs(exported, host, "image.raw")
    refused = net.get(url, *STRICT)
    assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
    refused = net.get(url, *STRICT, "--allow", "10.0.0.0/8", "--allow", "8.0.0.0/8")
    assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
    lists = ("--allow-nfs", "10.77.0.1", "--allow-nfs", "127.0.0.0/8", "--allow-nfs", "8.8.4.4")
    refused = net.get(url + "?uid=0", *STRICT, *lists)
    assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
    net.check_fetched(net.get(url, *STRICT, *lists))


def test_a_listed_server_is_listed_for_links_too(net: Net, exported: NfsServer) -> None:
    """From a private metalink; never from http, and never from outside."""
    to = nfs(exported, PRIVATE, "image.raw")
    (exported.folder / "x.meta4").write_bytes(metalink(to).version.content)
    lists = ("--allow-nfs", f"{PRIVATE}/32")
    net.check_fetched(net.get(nfs(exported, PRIVATE, "x.meta4"), *STRICT, *lists))
    (net.folder / "pool" / "image.img").unlink()
    public = ("--allow-nfs", "0.0.0.0/0")
    net.check_refused(net.get(nfs(exported, PUBLIC, "x.meta4"), *STRICT, *public))
    net.typed.resources["/x.meta4"] = metalink(to)
    net.check_refused(net.get(net.typed.url("/x.meta4"), *STRICT, *public))
    net.typed.resources["/image.raw"].rules = [Rule(redirect=to)]
    net.check_refused(net.get(net.typed.url("/image.raw"), *STRICT, *public))


# ---- proxies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    ["127.0.0.1", PRIVATE, METADATA, "[::1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]",
     "2130706433", "0x7f.1", "0177.1", "127.1", "127.0.0.1.", "LocalHost", "a.localhost.",
     "2130706433.", "0x7f000001."],
)  # fmt: skip
def test_behind_a_proxy_what_a_redirect_names_is_checked(net: Net, where: str) -> None:
    """The proxy would connect, from a place further inside than the origin's."""
    typed = f"http://{PUBLIC}/image.raw"
    rule = Rule(redirect=f"http://{where}:8080/image.raw")
    with FaultOrigin(
        {typed: Resource.of(IMAGE, rules=[rule])}, listener=net.space.listen(PRIVATE), name=PRIVATE
    ) as proxy:
        net.check_refused(net.get(typed, "--proxy", proxy.base))
        assert {r.path for r in proxy.requests} == {typed}


def test_behind_a_proxy_the_strict_policy_checks_what_is_typed(net: Net) -> None:
    """Addresses and localhost; the proxy checks names."""
    with FaultOrigin({}, listener=net.space.listen(PRIVATE), name=PRIVATE) as proxy:
        for host in ("127.0.0.1", METADATA, "localhost", "x.localhost", "[::1]"):
            url = f"http://{host}:8080/image.raw"
            net.check_refused(net.get(url, *STRICT, "--proxy", proxy.base))
        assert proxy.requests == []
        allowed = f"http://{PUBLIC_TOO}/image.raw"
        proxy.resources[allowed] = Resource.of(IMAGE, rules=[Rule(when=When(last_nth=0))])
        net.check_fetched(net.get(allowed, *STRICT, "--proxy", proxy.base))
