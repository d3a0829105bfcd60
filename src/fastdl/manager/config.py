# SPDX-License-Identifier: Apache-2.0
"""How a manager is configured: command line over environment over file over defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastdl import fs
from fastdl.errors import UsageError
from fastdl.model.address import AddressClass, classify, literal_address
from fastdl.wire.nats.servers import Servers, parse_servers, servers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerConfig:
    """*listen* and *agent_listen* are HOST:PORT; port 0 = any free one."""

    state: Path
    listen: str = "127.0.0.1:8080"
    """API and page. Beyond loopback they use TLS (*tls*)."""
    agent_listen: str = "127.0.0.1:8250"
    """Agents, mutual TLS; CloudStack's port."""
    database: str | None = None
    """None = SQLite in the state folder."""
    tls: str = "auto"
    """Of the API port: auto (TLS unless it listens on loopback), on, or off."""
    tls_cert: str | None = None
    """PEM: the certificate and its chain. None = issued by the manager's own CA."""
    tls_key: str | None = None
    """PEM; None = included in *tls_cert*."""
    tls_names: str = ""
    """Comma-separated names and addresses for the certificate of the manager's own CA, in addition
    to the machine's.
    """
    origins: str | None = None
    """TOML: the rules for origins. None = no rules."""
    fabric: str = "local"
    """local, or the URL of NATS servers: how several managers reach each other."""
    fabric_ca: str | None = None
    """PEM: the CAs of the NATS servers' certificates. None = the system's."""
    fabric_cert: str | None = None
    """PEM: this manager's certificate for NATS, and its chain."""
    fabric_key: str | None = None
    """PEM; None = included in *fabric_cert*."""
    agent_nats: str | None = None
    """The URL of NATS servers that agents may connect through, beside *agent_listen*."""
    log_format: str = "json"
    log_level: str = "info"


ENVIRONMENT = {f.name: f"FASTDL_MANAGER_{f.name.upper()}" for f in fields(ManagerConfig)}


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> ManagerConfig:
    """Return the configuration; UsageError names the source of a wrong or unknown key."""
    values: dict[str, Any] = {}
    if file is not None:
        values |= _read_file(file)
    for name, variable in ENVIRONMENT.items():
        if environment.get(variable):
            values[name] = environment[variable]
    values |= {name: value for name, value in flags.items() if value is not None}
    if not values.get("state"):
        raise UsageError("--state DIR is needed: the folder for all of the manager's files")
    values["state"] = Path(values["state"])
    config = ManagerConfig(**values)
    nats_servers(config)
    agent_servers(config)
    if config.log_format not in {"json", "text"}:
        raise UsageError("the log format is either json or text")
    if config.log_level not in {"debug", "info", "warning", "error"}:
        raise UsageError("the log level is debug, info, warning or error")
    if config.tls not in {"auto", "on", "off"}:
        raise UsageError("--tls is auto, on or off")
    if config.tls_key and not config.tls_cert:
        raise UsageError("--tls-key needs --tls-cert: the certificate that the key belongs to")
    if config.tls_cert and config.tls == "off":
        raise UsageError("--tls off and --tls-cert exclude each other")
    address(config.listen)
    address(config.agent_listen)
    return config


def nats_servers(config: ManagerConfig) -> Servers | None:
    """Return where NATS is; None = the managers, if there are several, use the database."""
    if config.fabric == "local":
        if config.fabric_ca or config.fabric_cert or config.fabric_key:
            raise UsageError("--fabric-ca, --fabric-cert and --fabric-key need --fabric nats://…")
        return None
    servers = servers_of(
        config.fabric, ca=config.fabric_ca, cert=config.fabric_cert, key=config.fabric_key
    )
    if not (config.database or "").startswith("postgresql"):
        raise UsageError(
            "--fabric nats://… is for several managers, which need --database postgresql://…: "
            "a ledger on SQLite has one"
        )
    return servers


def agent_servers(config: ManagerConfig) -> Servers | None:
    """Return the NATS servers that agents may connect through; None = only WebSockets."""
    if config.agent_nats is None:
        return None
    return parse_servers(config.agent_nats, option="--agent-nats")


def _read_file(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise UsageError(f"the configuration file {file} cannot be read: {fs.why(exc)}") from exc
    unknown = values.keys() - ENVIRONMENT.keys()
    if unknown:
        raise UsageError(f"{file}: unknown key {sorted(unknown)[0]!r}")
    wrong = [name for name, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise UsageError(f"{file}: {wrong[0]} is a string")
    return values


def speaks_tls(config: ManagerConfig) -> bool:
    """Whether the API port uses TLS: always beyond loopback, unless switched off."""
    if config.tls != "auto" or config.tls_cert:
        return config.tls != "off"
    host, _ = address(config.listen)
    known = literal_address(host)
    return known is None or classify(known) is not AddressClass.LOOPBACK


def address(text: str) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT or [IPV6]:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text!r} is not an address like 127.0.0.1:8080")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":8080" means every address
