# SPDX-License-Identifier: Apache-2.0
"""Does the API port speak TLS beyond loopback, with which certificate, and after a rotation?

The manager is a process of its own, certificates come from openssl, clients are ours and curl.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cs import CloudStack

from fastdl.errors import TrustError
from tests.env.manager import Client
from tests.env.manager import zone as running_zone
from tests.env.process import FASTDL
from tests.env.web import encoded, free_port, send


class Served:
    """A running manager, what it printed and where it is."""

    def __init__(self, process: asyncio.subprocess.Process, state: Path, port: int) -> None:
        self.process = process
        self.state = state
        self.port = port
        self.printed: list[str] = []
        self.log = state / "stderr"

    @property
    def admin(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.state / "admin.json").read_text())
        return found


@contextlib.asynccontextmanager
async def manager(state: Path, *words: str, listen: str = "0.0.0.0") -> AsyncIterator[Served]:
    """``fastdl manager`` that serves."""
    port = free_port()
    state.mkdir(exist_ok=True, mode=0o700)
    with (state / "stderr").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *FASTDL,
            "manager",
            "--state",
            str(state),
            "--listen",
            f"{listen}:{port}",
            "--agent-listen",
            "127.0.0.1:0",
            *words,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    made = Served(process, state, port)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
            assert line.startswith("fastdl manager serves"), made.log.read_text()
            made.printed.append(line.strip())
            if "https://" in line:
                made.printed.append((await process.stdout.readline()).decode().strip())
        yield made
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return await asyncio.to_thread(
        subprocess.run, [str(word) for word in words], capture_output=True, text=True, timeout=60
    )


async def api(served: Served, *words: str, credentials: Path | None = None) -> Any:
    """``fastdl api``."""
    path = credentials or served.state / "admin.json"
    return await run(*FASTDL, "api", "--credentials", path, *words)


async def pair(folder: Path, name: str, kind: str = "ec", days: int = 2) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 by openssl: (certificate, key)."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    new = ("rsa:2048",) if kind == "rsa" else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    done = await run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        *new,
        "-nodes",
        "-keyout",
        key,
        "-out",
        cert,
        "-days",
        str(days),
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1,DNS:localhost",
    )
    assert done.returncode == 0, done.stderr
    return cert, key


def fingerprint(path: Path) -> str:
    """SHA-256 of a PEM certificate."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex()


async def shown_by(port: int, *, rsa_only: bool = False, name: str | None = None) -> str:
    """SHA-256 of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if rsa_only:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).fingerprint(hashes.SHA256()).hex()


async def test_beyond_loopback_the_managers_own_ca_signs(tmp_path: Path) -> None:
    """Nothing to configure: the credentials carry what a client needs, the CA is printed."""
    async with manager(tmp_path / "m", "--tls-names", "manager.example, 192.0.2.7") as served:
        admin = served.admin
        assert admin["url"] == f"https://127.0.0.1:{served.port}/client/api"
        ca = served.state / "cacert.pem"
        assert ca.read_text() == admin["cacert"]
        assert fingerprint(ca) == served.printed[1].rpartition(" ")[2].replace(":", "").lower()
        done = await api(served, "create", "zone", "name=z1")
        assert done.returncode == 0, done.stderr
        context = ssl.create_default_context(cadata=admin["cacert"])
        assert (await send(admin["url"], tls=context)).status == 432
        for name in ("manager.example", "localhost", "192.0.2.7"):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", served.port, ssl=context, server_hostname=name
            )
            writer.close()
        cs = CloudStack(
            endpoint=admin["url"], key=admin["apikey"], secret=admin["secretkey"], verify=str(ca)
        )
        assert (await asyncio.to_thread(cs.listZones))["count"] == 1
        done = await run("curl", "-sS", "--cacert", ca, f"https://localhost:{served.port}/healthz")
        assert json.loads(done.stdout)["status"] == "ok"
        login = {
            "command": "login",
            "username": "admin",
            "password": admin["password"],
            "response": "json",
        }
        answer = await send(admin["url"], form=encoded(login.items()), tls=context)
        for line in answer.cookies.values():
            assert {"Secure", "HttpOnly", "SameSite=Strict"} <= set(line.split("; "))
        # Not the system's trust, not another CA's, not plain HTTP, no old version.
        bare = tmp_path / "bare.json"
        bare.write_text(json.dumps({k: v for k, v in admin.items() if k != "cacert"}))
        done = await api(served, "list", "zones", credentials=bare)
        assert done.returncode == 14
        assert "--cacert FILE" in done.stderr
        done = await api(served, "--cacert", str(ca), "list", "zones", credentials=bare)
        assert done.returncode == 0, done.stderr
        other, _ = await pair(tmp_path, "other")
        done = await api(served, "--cacert", str(other), "list", "zones")
        assert done.returncode == 14
        done = await run("curl", "-sS", f"http://127.0.0.1:{served.port}/healthz")
        assert done.returncode != 0
        old = ssl.create_default_context(cadata=admin["cacert"])
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", served.port, ssl=old)
        assert "BEGIN PRIVATE KEY" not in (ca.read_text() + json.dumps(admin))
    assert "Traceback" not in (tmp_path / "m" / "stderr").read_text()


async def test_loopback_stays_plain_http_and_tls_is_a_choice(tmp_path: Path) -> None:
    """The contract of a zone by hand; --tls on and --tls off say it the other way."""
    state = tmp_path / "m"
    async with manager(state, listen="127.0.0.1") as served:
        assert served.admin["url"] == f"http://127.0.0.1:{served.port}/client/api"
        assert "cacert" not in served.admin
        assert (await api(served, "list", "zones")).returncode == 0
    async with manager(state, "--tls", "on", listen="127.0.0.1") as served:
        assert served.admin["url"].startswith("https://127.0.0.1:")
        assert (await api(served, "list", "zones")).returncode == 0
    async with manager(state, "--tls", "off") as served:
        assert served.admin["url"].startswith("http://")
        assert "cacert" not in served.admin
        assert (await api(served, "list", "zones")).returncode == 0


async def test_a_rotation_is_taken_over_while_it_runs(tmp_path: Path) -> None:
    """Another pair, of another kind, by a rename, by a link: connections that stand go on; half
    a pair, a wrong one or none at all change nothing until the whole is there."""
    live, links = tmp_path / "live", tmp_path / "links"
    live.mkdir()
    first = await pair(tmp_path, "first", "rsa")
    for source, name in zip(first, ("tls.crt", "tls.key"), strict=True):
        (live / name).write_bytes(source.read_bytes())
    links.symlink_to(live)
    words = ("--tls-cert", str(links / "tls.crt"), "--tls-key", str(links / "tls.key"))
    async with manager(tmp_path / "m", *words) as served:
        assert await shown_by(served.port) == fingerprint(first[0])
        assert (await api(served, "list", "zones")).returncode == 0
        context = ssl.create_default_context(cafile=first[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=context)

        async def ask() -> bytes:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            found = await asyncio.wait_for(reader.readuntil(b"}"), 10)
            return bytes(found)

        assert b" 200 " in await ask()
        second = await pair(tmp_path, "second", "ec")
        (live / "tls.crt").write_bytes(second[0].read_bytes())
        await noticed(served, "is not used")
        assert await shown_by(served.port) == fingerprint(first[0])
        (live / "tls.key").write_bytes(second[1].read_bytes())
        await until_shown(served.port, second[0])
        for name in (None, "localhost", "unknown.example"):
            assert await shown_by(served.port, name=name) == fingerprint(second[0])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown_by(served.port, rsa_only=True)
        third, other = await pair(tmp_path, "third", "rsa"), tmp_path / "other"
        other.mkdir()
        for source, name in zip(third, ("tls.crt", "tls.key"), strict=True):
            (other / name).write_bytes(source.read_bytes())
        fresh = tmp_path / "fresh"
        fresh.symlink_to(other)
        fresh.rename(links)
        await until_shown(served.port, third[0])
        (other / "tls.crt").write_text("nonsense")
        (other / "tls.key").unlink()
        await noticed(served, "is not used", count=2)
        assert await shown_by(served.port) == fingerprint(third[0])
        assert b" 200 " in await ask()
        writer.close()
    text = (tmp_path / "m" / "stderr").read_text()
    assert "Traceback" not in text
    assert "PRIVATE KEY" not in text


async def until_shown(port: int, cert: Path) -> None:
    """Wait until new connections are shown *cert*."""
    wanted = fingerprint(cert)
    async with asyncio.timeout(20):
        while await shown_by(port) != wanted:
            await asyncio.sleep(0.05)


async def noticed(served: Served, text: str, count: int = 1) -> None:
    """Wait until the log has *text* so many times."""
    async with asyncio.timeout(20):
        while served.log.read_text().count(text) < count:
            await asyncio.sleep(0.05)


async def test_clients_follow_a_rotation_of_the_managers_ca(tmp_path: Path) -> None:
    """While both CAs are good the credentials carry both; then the new one signs, and is there."""
    async with running_zone(tmp_path / "m", tls="on") as zone:
        state, authority = tmp_path / "m", zone.manager.context.authority

        def credentials() -> dict[str, str]:
            found: dict[str, str] = json.loads((state / "admin.json").read_text())
            return found

        async def carries(*cas: str) -> None:
            async with asyncio.timeout(20):
                while credentials()["cacert"] != "".join(cas):
                    await asyncio.sleep(0.05)

        first = authority.pem
        await carries(first)
        authority.take(authority.begun())
        await carries(authority.current.pem, authority.newest.pem)
        both = credentials()
        assert (await Client(both)("listZones"))["count"] == 1
        authority.take(authority.finished())
        await carries(authority.pem)
        assert authority.pem != first
        for keys in (both, credentials()):
            assert (await Client(keys)("listZones"))["count"] == 1
        with pytest.raises(TrustError):
            await Client({**both, "cacert": first})("listZones")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tls-key", "first.key"], "--tls-key needs --tls-cert"),
        (["--tls-cert", "first.pem", "--tls", "off"], "exclude each other"),
        (["--tls-cert", "missing.pem"], "cannot be read: No such file"),
        (["--tls-cert", "first.pem"], "not a matching pair of PEM files"),
        (["--tls-cert", "first.pem", "--tls-key", "other.key"], "not a matching pair of PEM files"),
        (["--tls-cert", "first.pem", "--tls-key", "locked.key"], "protected by a passphrase"),
        (["--tls-cert", "empty", "--tls-key", "first.key"], "not a matching pair of PEM files"),
        (["--tls-names", "a b"], "neither a name nor an address"),
    ],
)
async def test_a_certificate_that_cannot_be_used_ends_the_start(
    tmp_path: Path, words: list[str], says: str
) -> None:
    """With one sentence, at once, and no question on a terminal that nobody answers."""
    await pair(tmp_path, "first")
    await pair(tmp_path, "other")
    (tmp_path / "empty").touch()
    locked = await run(
        "openssl",
        "pkey",
        "-in",
        tmp_path / "first.key",
        "-aes256",
        "-passout",
        "pass:x",
        "-out",
        tmp_path / "locked.key",
    )
    assert locked.returncode == 0
    files = [str(tmp_path / w) if (tmp_path / w).exists() else w for w in words]
    done = await run(
        *FASTDL,
        "manager",
        "--state",
        tmp_path / "m",
        "--listen",
        f"0.0.0.0:{free_port()}",
        "--agent-listen",
        "127.0.0.1:0",
        "--log-level",
        "error",
        *files,
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


async def test_a_taken_port_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Which option, which address, why."""
    async with manager(tmp_path / "one", listen="127.0.0.1") as served:
        done = await run(
            *FASTDL,
            "manager",
            "--state",
            tmp_path / "two",
            "--listen",
            f"127.0.0.1:{served.port}",
            "--agent-listen",
            "127.0.0.1:0",
            "--log-level",
            "error",
        )
    assert done.returncode == 2
    assert "address already in use" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
