# SPDX-License-Identifier: Apache-2.0
"""How many connections does an origin get, by what it is and by what they bring?

In a network namespace an origin has the name of an object store or the address of a stranger.
It limits each connection; the kernel limits the link that they share (qdisc tbf), or what a
connection has on its way over a distance (tcp_wmem). The command runs with its defaults.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import line
from fastdl.lab import nginx
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.netns import Namespace, network_namespace
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.slow import slow

MIB = 1 << 20
STORE, STRANGER, OWN = "bucket.s3.eu-west-1.amazonaws.com", "mirror.example", "10.20.0.1"
ADDRESSES = {STORE: "52.92.0.1", STRANGER: "93.184.216.34", OWN: OWN}
EACH = MIB
"""Bytes a second that the origin sends over one connection."""
SERVED = 5
"""Connections at once that the refusing server serves."""


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A namespace with all three addresses."""
    hosts = {name: address for name, address in ADDRESSES.items() if name != address}
    with network_namespace([f"{a}/32" for a in ADDRESSES.values()], hosts=hosts) as made:
        yield made


def get(space: Namespace, url: str, tmp_path: Path, content: bytes) -> None:
    """Download *url*, which has *content*, inside."""
    outcome = run_fastdl(
        ["get", url, "-o", str(tmp_path / "x")], home=tmp_path / "home", prefix=space.prefix
    )
    assert outcome.code == 0, outcome
    assert (tmp_path / "x").read_bytes() == content


def at_once(
    space: Namespace, host: str, tmp_path: Path, *, mib: int = 24, by: str | None = None
) -> int:
    """The most connections at a time to the origin *host*, of which *mib* MiB were fetched.

    *by*: the origin whose URL is given; it redirects to *host*.
    """
    content = pseudo_random(71, mib * MIB)
    resource = Resource.of(content, rules=[Rule(rate=EACH)])
    listener = space.listen(ADDRESSES[host])
    with FaultOrigin({"/i.raw": resource}, name=host, listener=listener) as origin:
        url = origin.url("/i.raw")
        if by is None:
            get(space, url, tmp_path, content)
        else:
            leads = Resource.of(b"", rules=[Rule(redirect=url, status=302)])
            listener = space.listen(ADDRESSES[by])
            with FaultOrigin({"/led.raw": leads}, name=by, listener=listener) as first:
                get(space, first.url("/led.raw"), tmp_path, content)
        most: int = origin.most_at_once
    return most


@contextlib.contextmanager
def serving(folder: Path, space: str, content: bytes, server: str) -> Iterator[Path]:
    """nginx in *space* with *content* as /i.raw and the directives *server*; yields its log.

    A line of the log is the status of a response and the number of its connection.
    """
    folder.mkdir()
    (folder / "i.raw").write_bytes(content)
    http = f"""
    log_format numbers '$status $connection';
    access_log {folder}/access.log numbers;
    limit_conn_zone $server_port zone=servers:1m;
    server {{ listen {ADDRESSES[STORE]}:80; root {folder}; {server} }}
    """
    listens = [(ADDRESSES[STORE], 80)]
    main = "master_process off;"
    with line.inside(space), nginx.running(folder, http, listens=listens, main=main):
        yield folder / "access.log"


def test_a_stranger_gets_no_more_than_its_limit(space: Namespace, tmp_path: Path) -> None:
    """However well more would pay; `test_each_kind_of_origin` has the others."""
    assert at_once(space, STRANGER, tmp_path, mib=12) <= 8


def test_a_stranger_to_whom_the_own_server_leads_gets_no_more(
    space: Namespace, tmp_path: Path
) -> None:
    """The connections go to where redirects led: it is the kind there that counts."""
    assert at_once(space, STRANGER, tmp_path, mib=20, by=OWN) <= 8


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_lower_them_and_they_stay_low(
    space: Namespace, tmp_path: Path, status: int
) -> None:
    """A store that serves five asks others to wait for a second; they do not come back then."""
    content = pseudo_random(73, 16 * MIB)
    server = f"""
        limit_conn servers {SERVED};
        limit_conn_status {status};
        limit_rate {EACH};
        error_page {status} = @later;
        location @later {{ add_header Retry-After 1 always; return {status}; }}
    """
    with serving(tmp_path / "nginx", space.name, content, server) as log:
        get(space, f"http://{STORE}/i.raw", tmp_path, content)
        refused = [words for words in log.read_text().splitlines() if words.startswith(str(status))]
    assert len(refused) <= 8, refused


@slow
@pytest.mark.parametrize(
    ("host", "least", "most"), [(STORE, 17, 32), (OWN, 9, 16), (STRANGER, 5, 8)]
)
def test_each_kind_of_origin(
    space: Namespace, tmp_path: Path, host: str, least: int, most: int
) -> None:
    """If each connection brings as much as the first, all that such an origin stands are used."""
    assert least <= at_once(space, host, tmp_path) <= most


@slow
def test_a_store_to_which_a_stranger_leads(space: Namespace, tmp_path: Path) -> None:
    """As release pages do."""
    assert 9 <= at_once(space, STORE, tmp_path, by=STRANGER) <= 32


@slow
def test_growth_stops_where_the_link_is_full(space: Namespace, tmp_path: Path) -> None:
    """Eight connections fill it, and a store would stand 32."""
    words = f"qdisc add dev lo root tbf rate {8 * EACH * 8}bit burst 128k latency 50ms"
    subprocess.run(["tc", "-n", space.name, *words.split()], check=True)
    assert 5 <= at_once(space, STORE, tmp_path) <= 19


@slow
def test_growth_over_a_distance(tmp_path: Path) -> None:
    """40 ms away a connection has 128 KiB on its way: twelve and more bring what one cannot."""
    if reason := line.missing():
        pytest.skip(reason)
    content, address = pseudo_random(79, 48 * MIB), ADDRESSES[STORE]
    with line.between(rtt_s=0.04, rates=[0]) as made, contextlib.ExitStack() as stack:
        etc = Path("/etc/netns") / made.near
        etc.mkdir(parents=True)
        stack.callback(shutil.rmtree, etc)
        (etc / "hosts").write_text(f"{address} {STORE}\n")
        for words in (
            f"-n {made.far} address add {address}/32 dev lo",
            f"-n {made.near} route add {address}/32 via {line.addresses(1)[0]}",
            f"netns exec {made.far} sysctl -q net.ipv4.tcp_wmem=4096\t16384\t131072",
        ):
            subprocess.run(["ip", *words.split(" ")], check=True)
        with serving(tmp_path / "nginx", made.far, content, "") as log:
            get(Namespace(made.near), f"http://{STORE}/i.raw", tmp_path, content)
            connections = {words.split()[1] for words in log.read_text().splitlines()}
    assert len(connections) >= 12
