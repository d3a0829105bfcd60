# SPDX-License-Identifier: Apache-2.0
"""Writes the configuration of NATS servers for hosts: who may connect, and use which subjects.

Clients show certificates of the manager's CA, and are the user that theirs names
(``verify_and_map``). Hosts are listed; or they are not, and the servers ask managers about each
connection (``nats_callout``).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from fastdl import fs
from fastdl.errors import UsageError
from fastdl.manager import state as state_folder
from fastdl.manager.config import ManagerConfig
from fastdl.manager.files import write_private
from fastdl.manager.hosts import known_ca
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.hosts.nats_claims import issuer
from fastdl.manager.hosts.nats_request import ACCOUNT
from fastdl.manager.ledger import hosts
from fastdl.manager.ledger.engine import default_path, default_url, open_ledger
from fastdl.wire.nats import subjects
from fastdl.wire.nats.servers import PAYLOAD_MAX

MAIN: Final = "nats.conf"
PART: Final = "fastdl-hosts.conf"
CALLOUT_S: Final = 4
"""How long a server waits for what managers say of a connection: less than the host does."""
_MAIN: Final = """\
# The configuration of a NATS server. Yours to change: fastdl only writes it where there is none.
listen: "0.0.0.0:4222"
jetstream {
  store_dir: "/var/lib/nats"
  sync_interval: always
}
include "fastdl-hosts.conf"
"""


async def write(config: ManagerConfig, folder: Path, *, callout: bool = False) -> Sequence[str]:
    """Write the files to *folder*; return the ids of the hosts that they allow in: with *callout*
    none, because the servers ask.

    UsageError if there is no manager's state to write them from, or they cannot be written.
    """
    if not await asyncio.to_thread((config.state / "secret.key").exists):
        raise UsageError(f"{config.state} is not the state folder of a manager that has started")
    vault = state_folder.open_vault(config.state)
    if config.database is None and not default_path(config.state).exists():
        raise UsageError(f"{config.state} holds no ledger: --database names that of its manager")
    ledger = await asyncio.to_thread(open_ledger, config.database or default_url(config.state))
    try:
        authority = await known_ca.look(ledger, vault, config.state / "ca")
        async with ledger.read() as tx:
            allowed = [] if callout else sorted(await hosts.keys(tx))
    finally:
        await ledger.close()
    more = asking(vault.derive) if callout else ()
    try:
        await asyncio.to_thread(_write, folder, authority, allowed, more)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be written: {fs.why(exc)}") from exc
    return allowed


def _write(folder: Path, authority: Authority, allowed: Sequence[str], more: Sequence[str]) -> None:
    folder = folder.absolute()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_private(folder / "ca.pem", authority.pem)
    write_private(folder / "server.pem", authority.sign_nats_server())
    write_private(folder / "manager.pem", authority.sign_nats_client())
    write_private(folder / PART, part(folder, allowed, more))
    if not (folder / MAIN).exists():
        write_private(folder / MAIN, _MAIN)


def asking(derive: Callable[[str], bytes]) -> list[str]:
    """Return the lines that make servers ask managers about everybody else. UsageError if PyNaCl
    is not installed.

    They name keys that managers derive with *derive*, and only their public halves.
    """
    if importlib.util.find_spec("nacl") is None:
        raise UsageError(
            "--nats-callout needs the Python package PyNaCl, on every manager: "
            "pip install '.[scale]' in fastdl's source folder"
        )
    from fastdl.manager.hosts.nats_curve import curve  # noqa: PLC0415 - an extra's package

    return [
        f"  timeout: {CALLOUT_S}",
        "  auth_callout {",
        f"    issuer: {issuer(derive).public}",
        f"    auth_users: [ {json.dumps(subjects.MANAGER)} ]",
        f"    account: {json.dumps(ACCOUNT)}",
        f"    xkey: {curve(derive).public}",
        "  }",
    ]


def part(folder: Path, allowed: Iterable[str], more: Sequence[str] = ()) -> str:
    """Return the part that says who may do what: the managers everything, each host of *allowed*
    what it needs. *folder* has the certificates; *more*: lines about those who are not listed."""
    users = [f"    {{ user: {json.dumps(subjects.MANAGER)} }}"]
    users += [_user(host) for host in allowed if subjects.is_host(host)]
    return "\n".join(
        (
            "# Written by fastdl: changes are lost.",
            f"max_payload: {PAYLOAD_MAX}",
            "# Who hangs, or is cut off, is gone after 20 s: sessions go to other managers then.",
            'ping_interval: "5s"',
            "ping_max: 3",
            "tls {",
            f"  cert_file: {json.dumps(str(folder / 'server.pem'))}",
            f"  key_file: {json.dumps(str(folder / 'server.pem'))}",
            f"  ca_file: {json.dumps(str(folder / 'ca.pem'))}",
            "  verify_and_map: true",
            "}",
            "authorization {",
            "  users: [",
            *users,
            "  ]",
            *more,
            "}",
            "",
        )
    )


def _user(host: str) -> str:
    allowed = subjects.permissions(host)
    return (
        f"    {{ user: {json.dumps(host)}, permissions: {{\n"
        f"      publish: {{ allow: {json.dumps(allowed.publish)} }}\n"
        f"      subscribe: {{ allow: {json.dumps(allowed.subscribe)} }}\n"
        "    } }"
    )
