# SPDX-License-Identifier: Apache-2.0
"""Do NATS servers with the configuration in docs/operations.md serve managers, and nobody else?"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.errors import UsageError
from tests.env import nats
from tests.env.process import eventually
from tests.env.seats import fabric, listening, until

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"
FILE = "/etc/nats/fabric.conf"
PASSWORD = "s3cr3t"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _certificates(folder: Path) -> None:
    """A CA and what it signed, as docs/private-ca.md makes them."""
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    ca = ("-keyout", "ca.key", "-out", "ca.pem")
    _openssl(folder, "req", "-x509", *NEW_KEY, "-subj", "/CN=Example CA", *usage, *ca)
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    leaf = ("-keyout", "tls.key", "-out", "tls.csr")
    _openssl(folder, "req", *NEW_KEY, "-subj", "/CN=n1.example", *names, *leaf)
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-copy_extensions", "copy", "-out", "tls.crt")
    _openssl(folder, "x509", "-req", "-in", "tls.csr", *signed)


@pytest.fixture
def addresses(tmp_path: Path) -> Iterator[list[str]]:
    """Where the three servers are."""
    _certificates(tmp_path)
    text = GUIDE.read_text().partition(f"$ cat {FILE}")[2].partition("\n")[2].partition("\n$ ")[0]
    ports, routes = nats.free_ports(3), nats.free_ports(3)
    for number, route in enumerate(routes, 1):
        text = text.replace(f"n{number}.example:6222", f"127.0.0.1:{route}")
    text = text.replace("/etc/nats", str(tmp_path))
    with contextlib.ExitStack() as running:
        for number, (port, route) in enumerate(zip(ports, routes, strict=True), 1):
            own = text.replace("server_name: n1", f"server_name: n{number}")
            own = own.replace("0.0.0.0:4222", f"127.0.0.1:{port}")
            own = own.replace("0.0.0.0:6222", f"127.0.0.1:{route}")
            own = own.replace("/var/lib/nats-fabric", str(tmp_path / f"n{number}"))
            file = tmp_path / f"n{number}.conf"
            file.write_text(own)
            out = running.enter_context((tmp_path / f"n{number}.log").open("wb"))
            server = subprocess.Popen(
                [nats.binary(), "-c", str(file)],
                env={**os.environ, "FASTDL_NATS_PASSWORD": PASSWORD}, stdout=out, stderr=out,
            )  # fmt: skip
            running.callback(server.wait)
            running.callback(server.kill)
        yield [f"127.0.0.1:{port}" for port in ports]


async def test_the_documented_servers(addresses: list[str], tmp_path: Path) -> None:
    """They are a cluster, take the password that the environment has, and not the variable's name
    in its place."""

    async def is_cluster() -> bool:
        logs = [path.read_text() for path in tmp_path.glob("n?.log")]
        return any("new metadata leader" in log for log in logs)

    await eventually(is_cluster)
    ca, where = str(tmp_path / "ca.pem"), ",".join(addresses)
    url = f"tls://fastdl:{PASSWORD}@{where}"
    one, other = fabric(url, "a", ca=ca), fabric(url, "b", ca=ca)
    async with listening(one, other, within=60) as (_, heard):
        one.notify("settings")
        await until(lambda: ("settings",) in heard)
    with pytest.raises(UsageError, match="refuses"):
        await fabric(f"tls://fastdl:%24FASTDL_NATS_PASSWORD@{where}", ca=ca).check()
