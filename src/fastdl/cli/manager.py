# SPDX-License-Identifier: Apache-2.0
"""``fastdl manager``: run the management server."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from fastdl.cli import streams
from fastdl.errors import UsageError

EPILOG = """examples:
  fastdl manager --state /var/lib/fastdl/manager
  fastdl manager --state DIR --listen 0.0.0.0:8080 --agent-listen 0.0.0.0:8250
  fastdl manager --state DIR --database postgresql://fastdl@db.example/fastdl

The first start writes DIR/admin.json (mode 0600): url, apikey, secretkey and password of the
user admin, and cacert if clients need it.

Beyond loopback the API and the page use TLS: with --tls-cert, which is reloaded when the
file changes, or with a certificate issued by the manager's own CA, whose fingerprint is printed.
 Every option can also be set in the file given by --config (TOML, underscores for dashes)
or in the environment as FASTDL_MANAGER_…; the command line wins over the environment, which
wins over the file.
Ctrl-C or SIGTERM stops it gracefully; hosts continue their work and report it later."""


GC_THRESHOLD = (20_000, 20, 20)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "manager",
        help="run the management server",
        description="Run the management server: CloudStack's API for templates and certificates.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", metavar="DIR", help="folder for all of the manager's files")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="API and page (default 127.0.0.1:8080)"
    )
    parser.add_argument(
        "--tls",
        choices=("auto", "on", "off"),
        help="whether the API uses TLS; auto (default): unless it listens on loopback",
    )
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        help="certificate chain of the API, PEM (default: issued by the manager's CA)",
    )
    parser.add_argument("--tls-key", metavar="FILE", help="its key, PEM (default: in --tls-cert)")
    parser.add_argument(
        "--tls-names",
        metavar="NAME,…",
        help="more names and addresses for the certificate issued by the manager's CA",
    )
    parser.add_argument(
        "--agent-listen", metavar="HOST:PORT", help="agents (default 127.0.0.1:8250)"
    )
    parser.add_argument(
        "--database", metavar="URL", help="postgresql://…; default: SQLite in the state folder"
    )
    parser.add_argument(
        "--origins",
        metavar="FILE",
        help="rules for origins (mirrors, proxy, credentials, limits, keyring, blocks), TOML; read "
        "again when it changes",
    )
    parser.add_argument(
        "--fabric",
        metavar="URL",
        help="nats://… or tls://…: several managers wake each other through NATS (default: local,"
        " through the database)",
    )
    parser.add_argument(
        "--fabric-ca", metavar="FILE", help="CAs of the NATS servers, PEM (default: the system's)"
    )
    parser.add_argument(
        "--fabric-cert", metavar="FILE", help="this manager's certificate for NATS, PEM"
    )
    parser.add_argument(
        "--fabric-key", metavar="FILE", help="its key, PEM (default: in --fabric-cert)"
    )
    parser.add_argument(
        "--agent-nats",
        metavar="URL",
        help="tls://… or nats://…: agents may also connect through these NATS servers (their"
        " configuration: --write-nats-config)",
    )
    parser.add_argument(
        "--write-nats-config",
        type=Path,
        metavar="DIR",
        help="write the configuration of NATS servers for the hosts that are enrolled now to DIR,"
        " and end",
    )
    parser.add_argument(
        "--nats-callout",
        action="store_true",
        help="with --write-nats-config: instead of listing hosts, let the servers ask the managers"
        " at each connection (auth callout), so that enrolling and deleting hosts changes nothing"
        " there",
    )
    parser.add_argument(
        "--accept-new-ca",
        action="store_true",
        help="start even though the ledger's hosts were enrolled by another CA, which is lost;"
        " if secret.key is lost too, the administrator gets new keys",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="a TOML file with these keys")
    parser.add_argument("--log-format", choices=("json", "text"), help="default: json")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="default: info"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal asks to stop."""
    from fastdl import logs
    from fastdl.manager import config  # heavy, and other verbs start here

    flags = {name: getattr(args, name) for name in config.ENVIRONMENT}
    settings = config.load(flags, os.environ, args.config)
    logs.set_up(style=settings.log_format, level=settings.log_level)

    import uvloop  # chosen here and nowhere else

    if args.write_nats_config is not None:
        uvloop.run(_write_nats_config(settings, args.write_nats_config, callout=args.nats_callout))
        return 0
    if args.nats_callout:
        raise UsageError("--nats-callout changes what --write-nats-config writes: name both")
    uvloop.run(_serve(settings, accept_new_ca=args.accept_new_ca))
    return 0


async def _write_nats_config(settings: Any, folder: Path, *, callout: bool) -> None:
    from fastdl.manager.hosts.nats_config import write

    allowed = await write(settings, folder, callout=callout)
    if callout:
        streams.report_done(f"{folder}: NATS servers ask the managers which hosts may connect")
        return
    hosts = "1 host" if len(allowed) == 1 else f"{len(allowed)} hosts"
    streams.report_done(f"{folder}: {hosts} may connect once the NATS servers have read it again")


async def _serve(settings: Any, *, accept_new_ca: bool) -> None:
    import asyncio
    import gc
    import signal

    from fastdl.manager.app import running
    from fastdl.web.routes import add_routes

    # What serves thousands of connections lives long: looking through all of it after every
    # few hundred new objects was a tenth of the work of connecting them.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_to_stop(number: signal.Signals) -> None:
        if stop.is_set():
            loop.remove_signal_handler(number)  # a second one ends it the hard way
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask_to_stop, number)
    serving = running(settings, add_routes=add_routes, accept_new_ca=accept_new_ca)
    async with serving as manager:
        notify("READY=1")
        streams.report_done(f"fastdl manager serves {manager.url}")
        if (tls := manager.context.api_tls) is not None:
            what = "its own CA" if tls.own else "its certificate"
            streams.report_done(f"SHA-256 fingerprint of {what}: {tls.fingerprint}")
        waits = [asyncio.create_task(event.wait()) for event in (stop, manager.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        notify("STOPPING=1")
        if manager.lost.is_set():
            raise UsageError("another manager has this one's name now, so this one stops")


def notify(state: str) -> None:
    """Tell systemd (Type=notify); nothing happens elsewhere."""
    import socket

    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    target = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(target)
        connection.send(state.encode())
