# SPDX-License-Identifier: Apache-2.0
"""``fastdl agent``: run on a KVM host and execute the manager's jobs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from fastdl import logs
from fastdl.agent.config import DEFAULT_FOLDER, HostConfig
from fastdl.agent.host import LIBVIRT
from fastdl.agent.service import Agent, Settings
from fastdl.agent.startup import serve
from fastdl.errors import UsageError
from fastdl.model.units import parse_size

_DESCRIPTION = """\
Connect to the manager, offer this host's pools and keystore, and execute downloads and
certificate changes. Everything survives a kill: start it again with the same command line
(a used token is ignored; the identity is in the state folder). A new token enrols a host
again whose certificate expired, or that the manager no longer knows."""

_EPILOG = """\
examples:
  fastdl agent --manager https://mgmt:8250 --token fdl1.… --state /var/lib/fastdl
  fastdl agent --manager https://a:8250 --manager https://b:8250 --state /var/lib/fastdl \\
               --pool fast=/dev/disk/by-id/nvme-… --pool images=/srv/images
  # without a manager: volumes for Terraform and others, over HTTP on this host
  fastdl agent --volumes-listen 127.0.0.1:8260 --volumes-token-file /etc/fastdl/volumes.token"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "agent",
        help="run on a KVM host and execute a manager's jobs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--manager",
        action="append",
        default=[],
        metavar="URL",
        help="https://HOST:PORT of a manager; may be given several times. Without one, only "
        "volumes are made on request (--volumes-listen)",
    )
    parser.add_argument(
        "--nats",
        metavar="URL",
        help="tls://HOST[:PORT][,…]: reach the managers through these NATS servers once enrolled"
        " (default: fastdl.nats in agent.properties, else directly)",
    )
    parser.add_argument("--token", metavar="T", help="from createHostToken, to enrol")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token in a file, - for standard input"
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=Path("/var/lib/fastdl/agent"),
        metavar="DIR",
        help="identity and journal (default: %(default)s)",
    )
    parser.add_argument(
        "--config-dir",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="agent.properties and cloud.jks, created if missing (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a folder or block device to offer instead of libvirt's active pools; "
        "NAME=shared:PATH for a folder shared with other hosts on a file system that does"
        " not show it (virtiofs, Lustre, …)",
    )
    parser.add_argument("--libvirt", default=LIBVIRT, metavar="URI", help="(default: %(default)s)")
    parser.add_argument("--name", default="", help="the host's name (default: its host name)")
    parser.add_argument(
        "--max-downloads",
        type=int,
        default=4,
        metavar="N",
        help="concurrent downloads (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    _add_volume_options(parser)


def _add_volume_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "volumes: an HTTP API for clients of libvirt (docs/volumes.md)"
    )
    group.add_argument(
        "--volumes-listen",
        metavar="ADDRESS",
        help="unix:/PATH or HOST:PORT; without it there is no such API",
    )
    for name, text in (
        ("token-file", "the bearer token that clients send"),
        ("cert", "the server's certificate (PEM), needed beyond loopback"),
        ("key", "its private key"),
        ("client-ca", "clients need a certificate of this CA"),
    ):
        group.add_argument(f"--volumes-{name}", type=Path, metavar="FILE", help=text)
    group.add_argument(
        "--volumes-max-size",
        default="1T",
        metavar="SIZE",
        help="what a source and its disk may have at most (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or an interrupt; 0 after a clean stop."""
    logs.set_up(level=logging.DEBUG if args.verbose else logging.INFO)
    if not args.manager and args.volumes_listen is None:
        raise UsageError("--manager URL is needed, or --volumes-listen ADDRESS")
    asyncio.run(_run(args, _settings(args)))
    return 0


async def _run(args: argparse.Namespace, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _volumes(args, settings):
        if settings.managers:
            await _serve(settings, stop)
        else:
            await stop.wait()


@contextlib.asynccontextmanager
async def _volumes(args: argparse.Namespace, settings: Settings) -> AsyncIterator[None]:
    """The API for volumes, if it is wanted."""
    if args.volumes_listen is None:
        yield
        return
    from fastdl.agent.pools.hypervisor import require_library
    from fastdl.agent.volume_jobs import Limits, VolumeJobs
    from fastdl.agent.volume_server import Listen, serving

    require_library()
    listen = Listen(
        address=args.volumes_listen,
        token_file=args.volumes_token_file,
        cert=args.volumes_cert,
        key=args.volumes_key,
        client_ca=args.volumes_client_ca,
    )
    jobs = VolumeJobs(
        lambda: HostConfig.load(settings.config_dir),
        libvirt=settings.libvirt,
        state=settings.state / "volumes",
        limits=Limits(running=settings.max_downloads, size=parse_size(args.volumes_max_size)),
    )
    async with serving(listen, jobs):
        yield


def _settings(args: argparse.Namespace) -> Settings:
    for manager in args.manager:
        if not manager.startswith("https://"):
            raise UsageError(f"--manager {manager}: the manager's agent port speaks https")
    if not 1 <= args.max_downloads <= 1024:
        raise UsageError("--max-downloads is between 1 and 1024")
    return Settings(
        managers=tuple(args.manager),
        token=args.token or _token(args.token_file),
        state=args.state.absolute(),
        config_dir=args.config_dir.absolute(),
        pools=tuple(args.pool),
        libvirt=args.libvirt,
        name=args.name,
        max_downloads=args.max_downloads,
        nats=args.nats,
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return (sys.stdin.readline() if str(path) == "-" else path.read_text()).strip()
    except OSError as exc:
        raise UsageError(f"--token-file {path} cannot be read: {exc.strerror}") from None


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(stop.wait())
    running: list[Agent] = []
    serving = loop.create_task(serve(settings, lambda agent: running.insert(0, agent)))
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set() and running:
        await running[0].goodbye()
    serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped; running jobs resume at the next start")
