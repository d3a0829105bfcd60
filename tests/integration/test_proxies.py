# SPDX-License-Identifier: Apache-2.0
"""Do downloads lead through a proxy as curl's do, and is the proxy itself held to its name?"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

import fastdl
from tests.env.certs import CertLab
from tests.env.command import Outcome, run_fastdl
from tests.env.origin import FaultOrigin, Resource, pseudo_random
from tests.env.proxy import Proxy, start_proxy

IMAGE = pseudo_random(41, 5 << 20)
CHECKSUM = f"sha-256:{hashlib.sha256(IMAGE).hexdigest()}"


@pytest.fixture(scope="module")
def plain() -> Iterator[FaultOrigin]:
    """An http origin."""
    with FaultOrigin({"/x.raw": Resource.of(IMAGE)}) as server:
        yield server


@pytest.fixture(scope="module")
def secure(certs: CertLab) -> Iterator[FaultOrigin]:
    """An https origin."""
    tls = certs.leaf("good").server_context()
    with FaultOrigin({"/x.raw": Resource.of(IMAGE)}, tls=tls) as server:
        yield server


def port_of(origin: FaultOrigin) -> int:
    return int(origin.base.rpartition(":")[2])


def get(url: str, tmp_path: Path, *words: str, environ: dict[str, str] | None = None) -> Outcome:
    """``fastdl get URL`` with *environ* in its environment."""
    prefix = ("env", *(f"{k}={v}" for k, v in (environ or {}).items()))
    command = ["get", url, "-o", str(tmp_path / "x"), "--json", "--checksum", CHECKSUM]
    words = ("--retry", "1", "--connect-timeout", "5", *words)
    return run_fastdl([*command, *words], home=tmp_path / "home", prefix=prefix)


def check_arrived(done: Outcome, tmp_path: Path) -> None:
    assert done.code == 0, done
    assert (tmp_path / "x").read_bytes() == IMAGE


# ---- credentials, and who resolves ------------------------------------------------


@pytest.mark.parametrize("userinfo", ["user:pass", "us%40er:p%3Ass%20word", "user"])
def test_credentials_on_plain_http(plain: FaultOrigin, tmp_path: Path, userinfo: str) -> None:
    """The proxy gets them with each request; the origin does not, nor does any output."""
    wanted = {"user": "user:", "user:pass": "user:pass"}.get(userinfo, "us@er:p:ss word")
    home = ("127.0.0.1", port_of(plain))
    with start_proxy(credentials=wanted, home=home) as proxy:
        url = "http://origin.invalid/x.raw"
        done = get(url, tmp_path, "--proxy", f"http://{userinfo}@{proxy.address}")
        check_arrived(done, tmp_path)
        assert all(fields["host"] == "origin.invalid" for _, fields in proxy.requests)
    assert not any("proxy-authorization" in r.fields for r in plain.requests)
    assert "pass" not in done.stdout + done.stderr


def test_credentials_for_a_tunnel(secure: FaultOrigin, tmp_path: Path, certs: CertLab) -> None:
    """CONNECT carries them, and nothing inside of the tunnel does."""
    with start_proxy(credentials="user:pass") as proxy:
        words = (
            "--proxy",
            f"http://user:pass@{proxy.address}",
            "--cacert",
            str(certs.ca.cert_file),
        )
        check_arrived(get(secure.url("/x.raw"), tmp_path, *words), tmp_path)
        assert all(line.startswith("CONNECT ") for line, _ in proxy.requests)
    assert not any("proxy-authorization" in r.fields for r in secure.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_407_is_clear_and_final(tmp_path: Path, scheme: str) -> None:
    """One try, and a sentence that names the proxy."""
    with start_proxy(credentials="user:pass") as proxy:
        url = f"{scheme}://origin.invalid/x.raw"
        done = get(url, tmp_path, "--proxy", f"http://user:wrong@{proxy.address}", "--retry", "4")
        assert done.code == 11, done
        error = done.json["error"]
        assert "the proxy requires credentials" in error["message"]
        assert (error["retryable"], len(proxy.requests)) == (False, 1)
        assert "wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "retryable", "says"),
    [(403, False, "refuses to connect"), (502, True, "cannot connect"), (503, True, "cannot")],
)
def test_a_tunnel_that_is_refused(tmp_path: Path, status: int, retryable: bool, says: str) -> None:
    """The proxy's own answers are not the origin's."""
    with start_proxy(connect_status=status) as proxy:
        done = get("https://origin.invalid/x", tmp_path, "--proxy", f"http://{proxy.address}")
    error = done.json["error"]
    assert done.code == 11
    assert says in error["message"]
    assert error["retryable"] is retryable


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy_is_called_one(tmp_path: Path, scheme: str) -> None:
    """Nobody should look for the fault at the origin."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"127.0.0.1:{gone.getsockname()[1]}"
    done = get(f"{scheme}://origin.invalid/x", tmp_path, "--proxy", dead, "--retry", "0")
    assert (done.code, done.classes) == (10, ["NET"])
    assert "the proxy cannot be connected to" in done.stderr
    named = get(
        f"{scheme}://a.invalid/x", tmp_path, "--proxy", "http://p.invalid:1", "--retry", "0"
    )
    assert "the proxy's name cannot be resolved" in named.stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_silent_proxy_is_given_up(tmp_path: Path, scheme: str) -> None:
    """It accepts and says nothing: neither a tunnel nor an answer may be waited for."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ("--proxy", proxy, "--retry", "0", "--connect-timeout", "1", "--stall-timeout", "1")
        done = get(f"{scheme}://origin.invalid/x", tmp_path, *words)
    assert done.code == 10


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:1", "http://", "http://a b:1", "http://:1"])
def test_what_is_no_proxy_is_a_usage_error(tmp_path: Path, proxy: str) -> None:
    """A typing mistake is not the network's fault."""
    done = get("http://origin.invalid/x", tmp_path, "--proxy", proxy)
    assert (done.code, done.classes) == (2, ["USAGE"])


# ---- proxies that speak TLS --------------------------------------------------------


@pytest.mark.parametrize("inner", ["http", "https"])
def test_an_https_proxy(
    plain: FaultOrigin, secure: FaultOrigin, tmp_path: Path, certs: CertLab, inner: str
) -> None:
    """Its certificate is checked by its own name with the job's anchors."""
    origin = plain if inner == "http" else secure
    with start_proxy(tls=certs.leaf("good").server_context(), credentials="u:p") as proxy:
        words = ("--proxy", f"https://u:p@{proxy.address}", "--cacert", str(certs.ca.cert_file))
        check_arrived(get(origin.url("/x.raw"), tmp_path, *words), tmp_path)
        assert proxy.requests


def test_an_https_proxy_and_an_origin_of_other_names(
    secure: FaultOrigin, tmp_path: Path, certs: CertLab
) -> None:
    """Proxy ``localhost``, origin by address: each certificate is good for its own alone."""
    leaf = certs.make("proxy-only", issuer=certs.ca, san=(x509.DNSName("localhost"),))
    with start_proxy(tls=leaf.server_context()) as proxy:
        words = ("--cacert", str(certs.ca.cert_file), "--proxy")
        url = secure.url("/x.raw")
        check_arrived(get(url, tmp_path, *words, f"https://localhost:{proxy.port}"), tmp_path)
        wrong = get(url, tmp_path / "2", *words, f"https://127.0.0.1:{proxy.port}")
    assert (wrong.code, wrong.classes) == (14, ["TLS_TRUST"])
    assert "the proxy's certificate is for another host name" in wrong.stderr


@pytest.mark.parametrize(
    ("identity", "says"),
    [
        ("unknown-ca", "the proxy's certificate is not trusted"),
        ("expired", "the proxy's certificate has expired"),
        ("wrong-host", "the proxy's certificate is for another host name"),
    ],
)
@pytest.mark.parametrize("inner", ["http", "https"])
def test_an_https_proxy_that_is_not_trusted(
    plain: FaultOrigin,
    secure: FaultOrigin,
    tmp_path: Path,
    certs: CertLab,
    identity: str,
    says: str,
    inner: str,
) -> None:
    """It gets neither a request nor the credentials."""
    origin = plain if inner == "http" else secure
    with start_proxy(tls=certs.leaf(identity).server_context()) as proxy:
        words = ("--proxy", f"https://u:p@{proxy.address}", "--cacert", str(certs.ca.cert_file))
        done = get(origin.url("/x.raw"), tmp_path, *words)
        assert not proxy.requests
    assert (done.code, done.classes) == (14, ["TLS_TRUST"])
    assert says in done.stderr


def test_a_host_is_not_trusted_because_its_proxy_is(tmp_path: Path, certs: CertLab) -> None:
    """The second handshake is checked like any other."""
    tls = certs.leaf("wrong-host").server_context()
    with (
        FaultOrigin({"/x.raw": Resource.of(IMAGE)}, tls=tls) as origin,
        start_proxy(tls=certs.leaf("good").server_context()) as proxy,
    ):
        words = ("--proxy", f"https://{proxy.address}", "--cacert", str(certs.ca.cert_file))
        done = get(origin.url("/x.raw"), tmp_path, *words)
        assert not origin.requests
    assert "the server's certificate is for another host name" in done.stderr


# ---- the environment, beside curl ---------------------------------------------------

CASES: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
    ("http", {"http_proxy": "{p1}"}, ()),
    ("http", {"HTTP_PROXY": "{p1}"}, ()),
    ("http", {"http_proxy": "", "all_proxy": "{p2}"}, ()),
    ("http", {"http_proxy": "{p1}", "all_proxy": "{p2}"}, ()),
    ("http", {"ALL_PROXY": "{p2}"}, ()),
    ("http", {"all_proxy": "{p1}", "ALL_PROXY": "{p2}"}, ()),
    ("http", {"https_proxy": "{p1}"}, ()),
    ("http", {"HTTPS_PROXY": "{p1}"}, ()),
    ("http", {"http_proxy": "127.0.0.1:{port1}"}, ()),
    ("https", {"http_proxy": "{p1}"}, ()),
    ("https", {"https_proxy": "{p1}"}, ()),
    ("https", {"HTTPS_PROXY": "{p1}"}, ()),
    ("https", {"https_proxy": "{p1}", "HTTPS_PROXY": "{p2}"}, ()),
    ("https", {"all_proxy": "{p2}"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "*"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0.1"}, ()),
    ("http", {"http_proxy": "{p1}", "NO_PROXY": "127.0.0.1"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "a, *"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "10.0.0.0/8,127.0.0.0/8"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0.0/31"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0.1/0"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0.1:80"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0."}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "localhost"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "", "NO_PROXY": "127.0.0.1"}, ()),
    ("http", {"http_proxy": "{p1}", "no_proxy": "127.0.0.1"}, ("--noproxy", "")),
    ("http", {"http_proxy": "{p1}"}, ("--noproxy", "127.0.0.1")),
    ("http", {"http_proxy": "{p1}"}, ("--proxy", "{p2}")),
    ("http", {"http_proxy": "{p1}"}, ("--proxy", "")),
    ("http", {"no_proxy": "127.0.0.1"}, ("--proxy", "{p2}")),
    ("name", {"http_proxy": "{p1}", "no_proxy": "localhost"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": ".LOCALHOST"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "localhost."}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "host"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "alhost localhost"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "a,,b , localhost"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "127.0.0.1"}, ()),
    ("name", {"http_proxy": "{p1}", "no_proxy": "x.localhost"}, ()),
]


@pytest.mark.parametrize(("kind", "environ", "words"), CASES, ids=str)
def test_the_environment_counts_as_for_curl(
    plain: FaultOrigin,
    secure: FaultOrigin,
    tmp_path: Path,
    certs: CertLab,
    kind: str,
    environ: dict[str, str],
    words: tuple[str, ...],
) -> None:
    """The same variables and options lead both through the same proxy, or through none."""
    origin = secure if kind == "https" else plain
    url = origin.url("/x.raw")
    if kind == "name":
        url = url.replace("127.0.0.1", "localhost")
    with start_proxy() as one, start_proxy() as two:
        fills = {
            "p1": f"http://{one.address}",
            "p2": f"http://{two.address}",
            "port1": str(one.port),
        }
        env = {k: v.format(**fills) for k, v in environ.items()}
        words = tuple(word.format(**fills) for word in words)
        trust = ("--cacert", str(certs.ca.cert_file))
        base = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        curl = ["curl", "-sS", "-o", "/dev/null", "-m", "20", *trust, *words, url]
        subprocess.run(curl, check=True, env=base | env, timeout=30)
        by_curl = taken(one, two)
        check_arrived(get(url, tmp_path, *trust, *words, environ=env), tmp_path)
        assert taken(one, two) == by_curl


def taken(*proxies: Proxy) -> list[bool]:
    """Which of them were asked; what they keep of it is forgotten."""
    asked = [bool(proxy.requests) for proxy in proxies]
    for proxy in proxies:
        proxy.requests.clear()
    return asked


def test_the_library_does_not_look_at_the_environment(
    plain: FaultOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a proxy nor for what needs none: libcurl must not on its own either."""
    with start_proxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        fastdl.fetch_sync(plain.url("/x.raw"), tmp_path / "a", checksum=CHECKSUM)
        assert not proxy.requests
        monkeypatch.setenv("no_proxy", "*")
        options = {"checksum": CHECKSUM, "proxy": f"http://{proxy.address}"}
        fastdl.fetch_sync(plain.url("/x.raw"), tmp_path / "b", **options)
        assert proxy.requests


# ---- SOCKS ---------------------------------------------------------------------------


@contextlib.contextmanager
def socks5(home: tuple[str, int]) -> Iterator[tuple[int, list[bytes]]]:
    """A SOCKS5 server without authentication: every name leads *home*. (port, names)"""
    names: list[bytes] = []

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(2 + client.recv(2)[1] - 2)
            client.sendall(b"\x05\x00")
            head = client.recv(5)
            name = client.recv(head[4])
            client.recv(2)
            names.append(name)
            client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            with socket.create_connection(home) as server:
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join(10)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], names
        listener.shutdown(socket.SHUT_RDWR)


def test_a_socks_proxy_that_resolves(plain: FaultOrigin, tmp_path: Path) -> None:
    """socks5h: names are resolved there; the request is an ordinary one."""
    with socks5(("127.0.0.1", port_of(plain))) as (port, names):
        done = get(
            "http://origin.invalid/x.raw", tmp_path, "--proxy", f"socks5h://127.0.0.1:{port}"
        )
        check_arrived(done, tmp_path)
    assert set(names) == {b"origin.invalid"}
