# SPDX-License-Identifier: Apache-2.0
"""Who are we, and who is the server? What a person is told, and that nobody is ever asked."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.env.certs import CertLab, Identity
from tests.env.command import Outcome, run_fastdl
from tests.env.nginx import Nginx, start_nginx
from tests.env.origin import pseudo_random

IMAGE = pseudo_random(51, 3 << 20)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def get(url: str, tmp_path: Path, *words: str, prefix: tuple[str, ...] = ()) -> Outcome:
    """``fastdl get URL``, with one retry to be seen where there should be none."""
    command = ["get", url, "-o", str(tmp_path / "x"), "--json", "--retry", "1", *words]
    return run_fastdl(command, home=tmp_path / "home", prefix=prefix, timeout=20)


class TlsServer:
    """One file over one version of TLS; with *client_ca* it wants a client's certificate.

    Not asyncio's: that one drops the alert with which it refuses a client.
    """

    def __init__(
        self,
        certs: CertLab,
        version: ssl.TLSVersion,
        *,
        leaf: str = "good",
        client_ca: Path | None = None,
    ) -> None:
        self._tls = certs.leaf(leaf).server_context(client_ca=client_ca)
        self._tls.minimum_version = self._tls.maximum_version = version
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self.requests = 0

    def __enter__(self) -> TlsServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        client.settimeout(10)
        with contextlib.suppress(OSError), client, self._tls.wrap_socket(client, True) as stream:
            while stream.recv(1 << 16):
                self.requests += 1
                head = f'HTTP/1.1 200 OK\r\nETag: "v"\r\nContent-Length: {len(IMAGE)}\r\n\r\n'
                stream.sendall(head.encode() + IMAGE)


def trust(certs: CertLab) -> tuple[str, str]:
    return ("--cacert", str(certs.ca.cert_file))


def identity(one: Identity) -> tuple[str, ...]:
    return ("--cert", str(one.cert_file), "--key", str(one.key))


def check_trust_error(done: Outcome, says: str, *, origin: TlsServer | None = None) -> None:
    """14, once, final, with a sentence about what to do."""
    assert (done.code, done.classes) == (14, ["TLS_TRUST"]), done
    assert says in done.stderr
    assert done.json["error"]["retryable"] is False
    assert origin is None or not origin.requests


# ---- a server that wants to know us -------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_certificate_that_is_wanted(
    certs: CertLab, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 refuses within the handshake, TLS 1.3 after the client's is over."""
    with TlsServer(certs, version, client_ca=certs.ca.cert_file) as origin:
        done = get(origin.url, tmp_path, *trust(certs))
        check_trust_error(done, "the server wants a client certificate", origin=origin)
        words = (*trust(certs), *identity(certs.leaf("client")))
        done = get(origin.url, tmp_path, *words)
        assert done.code == 0, done
        assert (tmp_path / "x").read_bytes() == IMAGE


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_certificate_that_is_refused(
    certs: CertLab, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """One of an authority that the server does not know."""
    with TlsServer(certs, version, client_ca=certs.ca.cert_file) as origin:
        words = (*trust(certs), *identity(certs.leaf("client-unknown-ca")))
        done = get(origin.url, tmp_path, *words)
        check_trust_error(done, "the server refuses the client certificate", origin=origin)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, certs: CertLab) -> Iterator[Nginx]:
    """One nginx for the module: it says so in an answer, after the handshake."""
    with start_nginx(tmp_path_factory.mktemp("nginx"), certs, {"x": IMAGE}) as server:
        yield server


def test_a_server_that_says_so_with_a_status(nginx: Nginx, certs: CertLab, tmp_path: Path) -> None:
    """400 of nginx: the handshake has told what is missing."""
    done = get(nginx.url("mutual", "x"), tmp_path, *trust(certs))
    assert done.code == 11
    assert "wants a client certificate" in done.stderr


# ---- keys that are protected ---------------------------------------------------------


def protect(key: Path, out: Path, *, traditional: bool) -> Path:
    """The same key under the passphrase ``sesame``, in one of the two PEM forms."""
    words = ["-aes256", "-passout", "pass:sesame", "-in", str(key), "-out", str(out)]
    form = ["ec", *words] if traditional else ["pkcs8", "-topk8", "-v2", "aes-256-cbc", *words[1:]]
    subprocess.run(["openssl", *form], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("traditional", [True, False])
def test_a_protected_key_is_opened_by_a_file_or_not_at_all(
    certs: CertLab, tmp_path: Path, traditional: bool
) -> None:
    """Nobody is asked: with a terminal or a pipe for an input it ends at once."""
    client = certs.leaf("client")
    key = protect(client.key, tmp_path / "key.pem", traditional=traditional)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("sesame\nanother line\n")
    wrong.write_text("open\n")
    base = (*trust(certs), "--cert", str(client.cert_file), "--key", str(key))
    with TlsServer(certs, VERSIONS[1], client_ca=certs.ca.cert_file) as origin:
        url = origin.url
        done = get(url, tmp_path, *base)
        check_trust_error(done, "--key-pass-file", origin=origin)
        done = get(url, tmp_path, *base, "--key-pass-file", str(wrong))
        check_trust_error(done, "the passphrase does not open the client's key", origin=origin)
        assert "open\n" not in done.stderr
        done = get(url, tmp_path, *base, "--key-pass-file", str(right))
        assert done.code == 0, done
        assert "sesame" not in done.stdout + done.stderr
        right.write_bytes(b"sesame\r\n")  # as Windows' editors write it
        (tmp_path / "x").unlink()
        done = get(url, tmp_path, *base, "--key-pass-file", str(right))
        assert done.code == 0, done


def test_nobody_is_asked_at_a_terminal_either(certs: CertLab, tmp_path: Path) -> None:
    """OpenSSL would ask at the controlling terminal, whatever standard input is."""
    client = certs.leaf("client")
    key = protect(client.key, tmp_path / "key.pem", traditional=False)
    words = ("--cert", str(client.cert_file), "--key", str(key))
    terminal = ("script", "-qec", 'exec "$FASTDL_RUN"', "/dev/null")
    run = tmp_path / "run"
    command = ["get", "https://127.0.0.1:1/x", "-o", str(tmp_path / "x"), *words]
    quoted = shlex.join([sys.executable, "-m", "fastdl", *command])
    run.write_text(f"#!/bin/sh\nexec {quoted}\n")
    run.chmod(0o755)
    done = subprocess.run(
        terminal,
        env={**os.environ, "FASTDL_RUN": str(run)},
        capture_output=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 14, done
    assert b"pass phrase" not in done.stdout


def test_certificate_and_protected_key_in_one_file(certs: CertLab, tmp_path: Path) -> None:
    """``--cert`` alone may hold both, in any order."""
    client = certs.leaf("client")
    key = protect(client.key, tmp_path / "key.pem", traditional=False)
    both, right = tmp_path / "both.pem", tmp_path / "right"
    both.write_bytes(key.read_bytes() + client.cert_file.read_bytes())
    right.write_text("sesame")
    words = (*trust(certs), "--cert", str(both))
    with TlsServer(certs, VERSIONS[1], client_ca=certs.ca.cert_file) as origin:
        check_trust_error(get(origin.url, tmp_path, *words), "--key-pass-file")
        done = get(origin.url, tmp_path, *words, "--key-pass-file", str(right))
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("garbage", "client", "the client certificate cannot be read"),
        ("client", "garbage", "the client's key cannot be read"),
        ("client", "good", "the client's key does not belong to its certificate"),
        ("missing", "client", "No such file"),
        ("client", "missing", "No such file"),
    ],
)
def test_files_that_cannot_be_used(
    certs: CertLab, tmp_path: Path, cert: str, key: str, says: str
) -> None:
    """Told before anything is asked of anybody."""
    (tmp_path / "garbage").write_text("-----BEGIN NOTHING-----\n")

    def path(name: str, part: str) -> str:
        if name in ("garbage", "missing"):
            return str(tmp_path / name)
        return str(getattr(certs.leaf(name), part))

    with TlsServer(certs, VERSIONS[1]) as origin:
        words = ("--cert", path(cert, "cert_file"), "--key", path(key, "key"))
        done = get(origin.url, tmp_path, *trust(certs), *words)
        check_trust_error(done, says, origin=origin)


def test_anchors_that_are_protected_are_not_asked_about(tmp_path: Path) -> None:
    """A PEM block may claim to be encrypted whatever it is."""
    anchors = tmp_path / "ca.pem"
    anchors.write_text(
        "-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\n"
        "DEK-Info: AES-256-CBC,00112233445566778899AABBCCDDEEFF\n\nAAAA\n"
        "-----END CERTIFICATE-----\n"
    )
    done = get("https://127.0.0.1:1/x", tmp_path, "--cacert", str(anchors))
    assert (done.code, done.classes) == (14, ["TLS_TRUST"])


@pytest.mark.parametrize("form", ["der", "p7b", "p7b-in-der"])
def test_anchors_come_in_every_form_that_authorities_hand_out(
    certs: CertLab, tmp_path: Path, form: str
) -> None:
    """DER and PKCS#7 as Windows exports them, not PEM alone."""
    anchors, ca = tmp_path / f"ca.{form}", str(certs.ca.cert_file)
    words = {
        "der": ["x509", "-in", ca, "-outform", "DER"],
        "p7b": ["crl2pkcs7", "-nocrl", "-certfile", ca],
        "p7b-in-der": ["crl2pkcs7", "-nocrl", "-certfile", ca, "-outform", "DER"],
    }[form]
    subprocess.run(["openssl", *words, "-out", str(anchors)], check=True, capture_output=True)
    with TlsServer(certs, VERSIONS[1]) as origin:
        done = get(origin.url, tmp_path, "--cacert", str(anchors))
    assert done.code == 0, done


def test_anchors_in_no_known_form_are_named(tmp_path: Path) -> None:
    """DER of something else."""
    anchors = tmp_path / "ca.der"
    anchors.write_bytes(b"\x30\x03\x02\x01\x05")
    done = get("https://127.0.0.1:1/x", tmp_path, "--cacert", str(anchors))
    assert (done.code, done.classes) == (14, ["TLS_TRUST"])
    assert "ca.der" in done.stderr


# ---- who the server is ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        ("missing-intermediate", "no intermediate certificate was sent"),
        ("unknown-ca", "certificate is not trusted"),
        ("intermediate-not-ca", "no trusted certificate or authority matches"),
        ("expired", "the server's certificate has expired"),
        ("not-yet-valid", "the server's certificate is not valid yet"),
        ("wrong-host", "the server's certificate is for another host name"),
        ("rsa-1024", "weak key or signature"),
        ("self-signed", "certificate is not trusted"),
    ],
)
def test_what_is_wrong_is_named(certs: CertLab, tmp_path: Path, leaf: str, says: str) -> None:
    """Each of them is somebody else's to mend."""
    with TlsServer(certs, VERSIONS[0], leaf=leaf) as origin:
        done = get(origin.url, tmp_path, *trust(certs))
        check_trust_error(done, says, origin=origin)


def test_a_server_that_speaks_no_tls(nginx: Nginx, tmp_path: Path) -> None:
    """https to a plain port: it says so."""
    done = get(nginx.url("plain", "x").replace("http:", "https:"), tmp_path)
    check_trust_error(done, "does not use TLS on this port")


def test_an_absolute_name(certs: CertLab, tmp_path: Path) -> None:
    """The dot at its end is left out for SNI and for the check of the certificate."""
    if os.geteuid() != 0:
        pytest.skip("a hosts file of its own needs root")
    certs.make("named", issuer=certs.ca, san=(x509.DNSName("mirror.example.test"),))
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost mirror.example.test. other.example.test.\n")
    mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", mount, str(hosts))
    with TlsServer(certs, VERSIONS[1], leaf="named") as origin:
        url = origin.url.replace("127.0.0.1", "mirror.example.test.")
        done = get(url, tmp_path, *trust(certs), prefix=prefix)
        assert done.code == 0, done
        other = url.replace("mirror", "other")
        done = get(other, tmp_path / "2", *trust(certs), prefix=prefix)
        check_trust_error(done, "the server's certificate is for another host name")
