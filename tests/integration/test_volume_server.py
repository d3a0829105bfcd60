# SPDX-License-Identifier: Apache-2.0
"""Is the agent's API for volumes small, safe and repeatable? A real agent, libvirtd and client."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import Authority
from tests.env import images
from tests.env.command import run_fastdl
from tests.env.faults import Rule
from tests.env.origin import FaultOrigin, Resource, pseudo_random

MIB = 1 << 20
TOKEN = "correct-horse-battery-staple"
RAW = pseudo_random(4, 3 * MIB + 512)
_AT = re.compile(r"volumes are made on request at (\S+)")


@dataclass
class Api:
    """A client of the agent at *port* or *path*."""

    port: int = 0
    path: Path | None = None
    token: str | None = TOKEN
    tls: ssl.SSLContext | None = None

    def call(
        self, method: str, target: str, body: Any = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """(status, the JSON of the response, its fields)."""
        if self.path is not None:
            connection = http.client.HTTPConnection("localhost", timeout=70)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.path))
        elif self.tls is not None:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, context=self.tls, timeout=70
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=70)
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read()), response.headers

    def make(self, body: Any, wait: int = 30) -> dict[str, Any]:
        """The job of the request, when it has ended."""
        status, job, _ = self.call("POST", f"/v1/volumes?wait={wait}", body)
        assert status == 200, job
        assert isinstance(job, dict)
        return job


@contextlib.contextmanager
def agent(folder: Path, *words: str, listen: str = "127.0.0.1:0") -> Iterator[Api]:
    """An agent without a manager, which offers nothing but volumes."""
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "agent.properties").write_text("secstorage.allowed.internal.sites=127.0.0.0/8\n")
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    if not words:
        words = ("--volumes-token-file", str(token))
    log = folder / f"agent-{len(list(folder.glob('agent-*')))}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastdl", "agent", "--volumes-listen", listen,
             "--state", folder / "state", "--config-dir", config, *words],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not (found := _AT.findall(log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        port = int(found[-1].rpartition(":")[2]) if not listen.startswith("unix:") else 0
        yield Api(port=port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert TOKEN not in log.read_text()


@pytest.fixture
def site() -> Iterator[FaultOrigin]:
    with FaultOrigin({"/x.raw": Resource.of(RAW)}) as origin:
        yield origin


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with agent(tmp_path) as found:
        yield found


def _request(pool: Any, site: FaultOrigin, **more: Any) -> dict[str, Any]:
    digest = hashlib.sha256(RAW).hexdigest()
    return {
        "pool": pool.name(),
        "name": "vm",
        "source": site.url("/x.raw"),
        "checksum": f"sha-256:{digest}",
        **more,
    }


@pytest.mark.parametrize("kind", ["dir", "disk"])
def test_a_volume_is_made_once(
    dir_pool: Any, disk_pool: Any, site: FaultOrigin, api: Api, kind: str
) -> None:
    """By a confined process; the same request is the same job, and answers at once."""
    pool = dir_pool if kind == "dir" else disk_pool
    job = api.make(_request(pool, site, capacity=8 * MIB))
    assert (job["state"], job["error"]) == ("done", None), job
    made = job["volume"]
    assert made["capacity"] == 8 * MIB
    assert made["volume"] in pool.listVolumes()
    with open(made["path"], "rb") as file:
        assert file.read(8 * MIB) == RAW + bytes(8 * MIB - len(RAW))
    if kind == "dir":
        assert os.stat(made["path"]).st_mode & 0o777 == 0o600
        assert pool.listVolumes() == ["vm"]
    asked = len(site.requests)
    again = api.make(_request(pool, site, capacity=8 * MIB))
    assert again["id"] == job["id"]
    assert again["volume"]["already_present"]
    assert len(site.requests) == asked
    status, shown, _ = api.call("GET", f"/v1/volumes/{job['id']}")
    assert (status, shown["state"]) == (200, "done")
    other = api.make(_request(pool, site, checksum=f"sha-256:{'0' * 64}"))
    assert (other["state"], other["error"]["class"]) == ("failed", "SINK_REFUSED")


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_an_image_is_judged_where_it_cannot_harm(
    dir_pool: Any, disk_pool: Any, site: FaultOrigin, api: Api, tmp_path: Path
) -> None:
    """qcow2 stays on files, grows by libvirt, becomes raw on devices; an unsafe one is refused."""
    image = images.build(tmp_path / "x", images.Recipe(size=8 * MIB, writes=8))
    unsafe = tmp_path / "overlay"
    images.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw"),
        *("-b", "/etc/passwd", unsafe, "4M"),
    )
    site.resources["/x.qcow2"] = Resource.of(image.read_bytes())
    site.resources["/unsafe"] = Resource.of(unsafe.read_bytes())
    for pool, kind in ((dir_pool, "qcow2"), (disk_pool, "raw")):
        body = {"pool": pool.name(), "name": "q", "source": site.url("/x.qcow2")}
        made = api.make({**body, "capacity": 10 * MIB})["volume"]
        assert made["capacity"] == 10 * MIB
        if kind == "qcow2":
            assert made["format"] == "qcow2"
        bad = api.make({**body, "name": "u", "source": site.url("/unsafe")})
        assert bad["error"]["class"] == "UNSAFE_IMAGE", bad
        assert pool.listVolumes() == [made["volume"]]


def test_progress_cancel_and_a_restart(dir_pool: Any, tmp_path: Path) -> None:
    """A job is followed, stopped, and taken up by the same request to another agent."""
    slow = Resource.of(pseudo_random(8, 64 * MIB), rules=[Rule(rate=MIB)])
    with FaultOrigin({"/slow": slow}) as site:
        body = {"pool": dir_pool.name(), "name": "vm", "source": site.url("/slow")}
        with agent(tmp_path) as api:
            status, job, fields = api.call("POST", "/v1/volumes", body)
            assert (status, fields["Location"]) == (202, f"/v1/volumes/{job['id']}")
            deadline = time.monotonic() + 30
            while (job["progress"].get("done") or 0) < 2 * MIB:
                assert time.monotonic() < deadline, job
                status, job, _ = api.call("GET", f"/v1/volumes/{job['id']}?wait=1")
            assert (job["state"], job["progress"]["total"]) == ("running", 64 * MIB)
            status, job, _ = api.call("DELETE", f"/v1/volumes/{job['id']}")
            assert (status, job["state"]) == (200, "cancelled")
            assert "vm" not in dir_pool.listVolumes()
        slow.rules.clear()
        with agent(tmp_path) as api:
            assert api.call("GET", f"/v1/volumes/{job['id']}")[0] == 404
            made = api.make(body)["volume"]
            assert made["resumed_bytes"] > 0
    assert dir_pool.listVolumes() == ["vm"]


def test_nobody_without_the_token(dir_pool: Any, site: FaultOrigin, api: Api) -> None:
    """Missing, wrong, nearly right; many of them are slowed, and the right one still works."""
    body = _request(dir_pool, site)
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        status, plain, fields = Api(port=api.port, token=token).call("POST", "/v1/volumes", body)
        assert (status, plain["error"]["class"]) == (401, "API_AUTH")
        assert fields["WWW-Authenticate"] == "Bearer"
    basic = Api(port=api.port, token=None)
    assert basic.call("POST", "/v1/volumes", body, Authorization=f"Basic {TOKEN}")[0] == 401
    seen = {Api(port=api.port, token="no").call("GET", "/v1/volumes/x")[0] for _ in range(60)}
    assert seen == {401, 429}
    assert api.call("GET", "/v1/volumes/x")[0] == 404
    assert site.requests == []


HOSTILE: tuple[Any, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 50_000,
    {},
    {"pool": "p", "name": "n"},
    {"pool": "p", "name": "n", "source": "http://a/x", "sources": ["http://a/x"]},
    {"pool": "p", "name": "n", "source": None},
    {"pool": "p", "name": "n", "source": "/etc/shadow"},
    {"pool": "p", "name": "n", "source": "file:///etc/shadow"},
    {"pool": "p", "name": "n", "source": "s3://bucket/key"},
    {"pool": "p", "name": "n", "source": "simplestreams:http://a/x#b"},
    {"pool": "p", "name": "n", "source": "http://a/x\r\nX: y"},
    {"pool": "p", "name": "n", "source": "http://a/" + "x" * 9000},
    {"pool": "p", "name": "n", "sources": []},
    {"pool": "p", "name": "n", "sources": ["http://a/x"] * 17},
    {"pool": "p", "name": "../n", "source": "http://a/x"},
    {"pool": "p", "name": ".fastdl", "source": "http://a/x"},
    {"pool": "p", "name": "n" * 300, "source": "http://a/x"},
    {"pool": "p\n", "name": "n", "source": "http://a/x"},
    {"pool": ["p"], "name": "n", "source": "http://a/x"},
    {"pool": "p", "name": "n", "source": "http://a/x", "capacity": -1},
    {"pool": "p", "name": "n", "source": "http://a/x", "capacity": True},
    {"pool": "p", "name": "n", "source": "http://a/x", "capacity": 1e300},
    {"pool": "p", "name": "n", "source": "http://a/x", "capacity": 1 << 80},
    {"pool": "p", "name": "n", "source": "http://a/x", "format": "vmdk"},
    {"pool": "p", "name": "n", "source": "http://a/x", "overwrite": "yes"},
    {"pool": "p", "name": "n", "source": "http://a/x", "checksum": "sha-256:zz"},
    {"pool": "p", "name": "n", "source": "http://a/x", "checksum": "/etc/SHA256SUMS"},
    {"pool": "p", "name": "n", "source": "http://a/x", "headers": {"Range": "bytes=0-1"}},
    {"pool": "p", "name": "n", "source": "http://a/x", "headers": {"X": "a\r\nY: b"}},
    {"pool": "p", "name": "n", "source": "http://a/x", "headers": {"Host": "b"}},
    {"pool": "p", "name": "n", "source": "http://a/x", "headers": [["X", "y"]]},
    {"pool": "p", "name": "n", "source": "http://a/x", "cacert": "-----BEGIN CERTIFICATE-----"},
    {"pool": "p", "name": "n", "source": "http://a/x", "proxy": "http://p"},
)


def test_hostile_requests_are_refused_in_one_sentence(api: Api) -> None:
    """With the class of a wrong parameter, and the agent goes on."""
    for body in HOSTILE:
        status, plain, _ = api.call("POST", "/v1/volumes", body)
        assert (status, plain["error"]["class"]) == (400, "API_PARAM"), (body, plain)
    assert api.call("POST", "/v1/volumes", b" " * (65 << 10))[0] == 400
    for method, target, expected in (
        ("GET", "/v1/volumes", 405),
        ("PUT", "/v1/volumes/x", 404),
        ("GET", "/", 404),
        ("GET", "/v1/volumes/../../etc/passwd", 404),
        ("GET", "/v1/volumesx/y", 404),
        ("POST", "/v1/volumesx", 404),
        ("GET", "/x/v1/volumes", 404),
        ("GET", "/v1/volumes/x?wait=a", 400),
    ):
        assert api.call(method, target)[0] == expected, (method, target)


def test_the_sources_are_under_the_agents_policy(
    dir_pool: Any, site: FaultOrigin, tmp_path: Path
) -> None:
    """Loopback only where the host's configuration allows it."""
    with agent(tmp_path) as api:
        (tmp_path / "config" / "agent.properties").write_text("")
        job = api.make(_request(dir_pool, site))
    assert job["error"]["class"] == "POLICY", job
    assert site.requests == []


def test_silent_and_many_connections(api: Api) -> None:
    """A client that sends nothing, or half a request, keeps nobody out for long."""
    held = []
    for _ in range(80):
        one = socket.create_connection(("127.0.0.1", api.port))
        one.sendall(b"POST /v1/volumes HTTP/1.1\r\n")
        held.append(one)
    deadline = time.monotonic() + 10
    refused = b""
    while not refused and time.monotonic() < deadline:
        with (
            contextlib.suppress(TimeoutError),
            socket.create_connection(("127.0.0.1", api.port), timeout=2) as more,
        ):
            refused = more.recv(100)
    assert refused.startswith(b"HTTP/1.1 503")
    for one in held:
        one.close()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            if api.call("GET", "/v1/volumes/x")[0] == 404:
                return
    raise AssertionError("the connections that were closed are still counted")


def test_a_unix_socket_is_its_owners(dir_pool: Any, site: FaultOrigin, tmp_path: Path) -> None:
    """Its mode is the authentication; what a killed agent left is no obstacle."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with agent(tmp_path, "--verbose", listen=f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        api = Api(path=path, token=None)
        assert api.make(_request(dir_pool, site))["state"] == "done"
        second = run_fastdl(
            ["agent", "--volumes-listen", f"unix:{path}", "--state", str(tmp_path / "other")],
            home=tmp_path / "home",
        )
        assert (second.code, second.classes) == (2, ["USAGE"]), second
    assert not path.exists()


def test_certificates_of_clients(dir_pool: Any, site: FaultOrigin, tmp_path: Path) -> None:
    """TLS with a client's certificate of the CA, and nobody without."""
    authority = Authority(tmp_path / "ca")
    server = authority.make("server", issuer=authority.ca)
    client = authority.make("client", issuer=authority.ca, client=True)
    words = ("--volumes-cert", str(server.chain), "--volumes-key", str(server.key),
             "--volumes-client-ca", str(authority.ca.cert_file))  # fmt: skip
    with agent(tmp_path, *words) as found:
        context = ssl.create_default_context(cafile=str(authority.ca.cert_file))
        bare = Api(port=found.port, token=None, tls=context)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            bare.call("GET", "/v1/volumes/x")
        context.load_cert_chain(client.chain, client.key)
        assert bare.make(_request(dir_pool, site))["state"] == "done"


@pytest.mark.parametrize(
    "words",
    [
        ("127.0.0.1:0",),
        ("0.0.0.0:0", "--volumes-token-file", "TOKEN"),
        ("127.0.0.1", "--volumes-token-file", "TOKEN"),
        ("127.0.0.1:0", "--volumes-token-file", "SHORT"),
        ("127.0.0.1:0", "--volumes-token-file", "OPEN"),
        ("127.0.0.1:0", "--volumes-token-file", "/nowhere"),
        ("127.0.0.1:0", "--volumes-client-ca", "TOKEN"),
    ],
)
def test_an_open_door_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    """No authentication, plain text beyond loopback, a token that everybody can read."""
    for name, text, mode in (
        ("TOKEN", TOKEN, 0o600),
        ("SHORT", "a", 0o600),
        ("OPEN", TOKEN, 0o644),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    filled = [str(tmp_path / word) if word.isupper() else word for word in words]
    done = run_fastdl(
        ["agent", "--volumes-listen", *filled, "--state", str(tmp_path / "state")],
        home=tmp_path / "home",
    )
    assert (done.code, done.classes) == (2, ["USAGE"]), done
