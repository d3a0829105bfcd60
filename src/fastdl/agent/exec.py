# SPDX-License-Identifier: Apache-2.0
"""How is one command of CloudStack's agent executed and answered?

There is always an answer: every failure becomes one that CloudStack understands, with
``retryOnOtherHosts`` true only if another host might succeed.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdl.agent import work
from fastdl.agent.config import HostConfig
from fastdl.agent.pools import DirectoryPool, Memory, Pool, Usage, Volume
from fastdl.agent.templates import Wanted, bring
from fastdl.agent.work import Work
from fastdl.errors import (
    Cancelled,
    FastdlError,
    IntegrityError,
    Reason,
    SinkRefusedError,
    TrustError,
    UnsafeImageError,
    UsageError,
    as_error,
)
from fastdl.model.image import declared_format
from fastdl.wire import cloudstack as cs
from fastdl.wire.messages import PoolType

log = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("5b0c7a4e-94c0-5c1d-9d0f-6f2a3a1f7c55")
"""Namespace of the copies' names: the same command always means the same volume."""

_PATIENCE = 10_800.0
"""Seconds to wait for the same template in another command: CloudStack's own default."""

_FILE_POOLS = {
    "Filesystem": PoolType.FILESYSTEM,
    "NetworkFilesystem": PoolType.NETWORK_FILESYSTEM,
    "SharedMountPoint": PoolType.SHARED_MOUNT_POINT,
}
_SAID_AS_IT_IS = {Reason.NO_TEMPORARY_LOCATION, Reason.UNSUPPORTED_PROTOCOL}
"""Their messages are CloudStack's own, so they get no prefix."""
_SCHEMES = {
    "Http": ("http://",),
    "Https": ("https://",),
    "Nfs": ("nfs://",),
    "Metalink": ("http://", "https://", "nfs://"),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer's JSON, and the corresponding exit code."""

    text: str
    exit_code: int


async def answer(
    command: str | bytes,
    config: Callable[[], HostConfig],
    *,
    libvirt: str = "qemu:///system",
    progress: Callable[[Mapping[str, Any]], None] | None = None,
) -> Reply:
    """Execute *command*, CloudStack's JSON array of one; never raises.

    Cancelling the task also produces an answer: the fetched data is kept, and the next attempt
    resumes from it.

    """
    parsed: cs.Command | None = None
    try:
        parsed = cs.parse_command(command)
        text = await _execute(parsed, config(), libvirt, progress)
    except FastdlError as exc:
        return Reply(_failure(parsed, exc), exc.exit_code)
    except asyncio.CancelledError:
        stopped = Cancelled("the command was stopped; the next attempt resumes from here")
        return Reply(_failure(parsed, stopped), stopped.exit_code)
    except Exception as exc:  # CloudStack waits for an answer, even after a bug
        log.exception("a command failed unexpectedly")
        error = as_error(exc)
        return Reply(_failure(parsed, error), error.exit_code)
    code = UsageError.exit_code if isinstance(parsed, cs.Unknown) else 0
    return Reply(text, code)


async def _execute(
    command: cs.Command,
    config: HostConfig,
    libvirt: str,
    progress: Callable[[Mapping[str, Any]], None] | None,
) -> str:
    match command:
        case cs.Download():
            return await _download(command, config, libvirt, progress)
        case cs.SetupCertificate():
            await asyncio.to_thread(
                config.keystore().import_certificate, command.name, command.certificate
            )
            return cs.answered(result=True, details=f"Certificate {command.name} imported")
        case cs.RevokeCertificate():
            await asyncio.to_thread(config.keystore().delete, command.alias)
            return cs.answered(result=True)
        case cs.CheckUrl():
            return await _check(command, config)
        case cs.Unknown():
            return cs.unsupported(f"Unsupported command issued: {command.name}")


async def _download(
    command: cs.Download,
    config: HostConfig,
    libvirt: str,
    progress: Callable[[Mapping[str, Any]], None] | None,
) -> str:
    if not command.url.lower().startswith(_SCHEMES[command.protocol]):
        raise UsageError(
            "Unsupported protocol, please provide HTTP(S), NFS or a metalink",
            reason=Reason.UNSUPPORTED_PROTOCOL,
        )
    state = _state(config)
    pool = await asyncio.to_thread(_pool, command.pool, libvirt, state)
    options: dict[str, Any] = {
        **_common(config, command),
        "headers": command.headers,
        "source_format": declared_format(command.format),
        "allowed_cidrs": (*config.allowed_cidrs, *command.allowed_cidrs),
        "nfs_servers": (*config.nfs_servers, *command.nfs_servers),
        "metalink_by_type": command.protocol == "Metalink",
    }
    done = await bring(
        pool,
        Wanted(
            volume=_volume(command),
            sources=(command.url,),
            checksum=command.checksum,
            options=options,
            expected_size=command.template_size or None,
            deadline=command.wait or None,
            patience=command.wait or _PATIENCE,
            state=state,
            confinement=config.confinement,
            template=command.template_uuid or str(command.template_id),
        ),
        Usage(lambda: [pool], libvirt=libvirt),
        progress=progress,
    )
    return cs.downloaded(template_size=done.virtual_size, install_path=done.install_path)


async def _check(command: cs.CheckUrl, config: HostConfig) -> str:
    options = {
        **_common(config, command),
        "source_format": declared_format(command.format),
        "allowed_cidrs": config.allowed_cidrs,
        "nfs_servers": config.nfs_servers,
        "metalink_by_type": False,
    }
    found = await work.run(
        Work(action="probe", sources=(command.url,), options=options),
        confinement=config.confinement,
    )
    size = found.get("virtual_size") or found.get("size")
    if size is None:
        raise UsageError(f"{command.url}: the origin does not report the size")
    return cs.checked(template_size=int(size))


def _common(config: HostConfig, command: cs.Download | cs.CheckUrl) -> dict[str, Any]:
    """The engine's options common to all commands."""
    options: dict[str, Any] = {
        "policy": "strict",
        "anchors": _anchors(config, command.url),
        "follow_redirects": command.follow_redirects,
    }
    if command.timeouts.connect is not None:
        options["connect_timeout"] = command.timeouts.connect
    if command.timeouts.read is not None:
        options["stall_timeout"] = command.timeouts.read
    return options


def _anchors(config: HostConfig, url: str) -> tuple[str, ...]:
    """The keystore's certificates; a broken keystore stops only https."""
    try:
        return config.anchors()
    except TrustError:
        if url.lower().startswith("https://"):
            raise
        log.warning(
            "the keystore cannot be read: https mirrors are verified against the system's CAs only"
        )
        return ()


def _volume(command: cs.Download) -> Volume:
    """A name unique to this template and its source."""
    if command.destination and command.pool.type not in _FILE_POOLS:
        return Volume(command.destination.rpartition("/")[2])
    content = "\n".join(
        (command.template_uuid or str(command.template_id), command.url, command.checksum or "")
    )
    return Volume(str(uuid.uuid5(_NAMESPACE, content)), iso=command.format.upper() == "ISO")


def _pool(wanted: cs.Pool, libvirt: str, state: Path) -> Pool:
    kind = _FILE_POOLS.get(wanted.type)
    if kind is None:
        from fastdl.agent.pools import virt  # an optional library

        return virt.find(wanted.uuid, uri=libvirt, state=state)
    path = Path(wanted.path)
    mounted = Path("/mnt") / wanted.uuid
    at_mount = kind is PoolType.NETWORK_FILESYSTEM and mounted.is_dir()
    if at_mount:
        path = mounted  # CloudStack's path is then the export's, on the server
    if not path.is_absolute():
        raise SinkRefusedError(f"the pool {wanted.uuid} has no absolute path")
    return DirectoryPool(
        path,
        name=wanted.name or wanted.uuid,
        pool_id=wanted.uuid,
        kind=kind,
        memory=Memory(state),
        mounted=at_mount,
    )


def _state(config: HostConfig) -> Path:
    """Where journals are kept: CloudStack's temporary location if one is configured."""
    temporary = config.temporary
    if temporary is None:
        return Path("/var/lib/fastdl/exec")
    if not temporary.is_dir():
        raise SinkRefusedError(
            "The temporary location path for downloading templates does not exist: "
            f"{temporary} on this host",
            reason=Reason.NO_TEMPORARY_LOCATION,
        )
    return temporary / ".fastdl"


def _failure(command: cs.Command | None, exc: FastdlError) -> str:
    """The answer's class follows from the command's; its text begins like CloudStack's."""
    match command:
        case cs.Download():
            details = _download_details(command, exc)
            return cs.download_failed(details, retry_on_other_hosts=exc.retry_elsewhere)
        case cs.CheckUrl():
            return cs.check_failed(str(exc))
        case _:
            return cs.answered(result=False, details=str(exc))


def _download_details(command: cs.Download, exc: FastdlError) -> str:
    if isinstance(exc, IntegrityError):
        return f"Checksum validation failed: {exc}"
    if isinstance(exc, UnsafeImageError):
        kind = command.format.upper() or "image"
        return (
            f"The downloaded file is not a valid {kind}. "
            f"Ask the administrator to check the logs for more details. {exc}"
        )
    if exc.reason in _SAID_AS_IT_IS:
        return str(exc)
    return f"Unable to download template: {exc}"
