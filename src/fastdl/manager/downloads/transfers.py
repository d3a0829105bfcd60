# SPDX-License-Identifier: Apache-2.0
"""How hosts are to fetch: the settings in force, as the wire's ``Transfer``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import Row

from fastdl.errors import ApiParamError
from fastdl.manager import sealed
from fastdl.manager.downloads import objects
from fastdl.manager.downloads.registration import check_url
from fastdl.manager.ledger.text import loads
from fastdl.manager.settings import INTERNAL_SITES, NFS_SERVERS, Settings
from fastdl.manager.vault import Vault
from fastdl.model.url import Url
from fastdl.publishers.s3 import is_object
from fastdl.sources.origin_rules import refused_by
from fastdl.wire import messages as m

CONNECTIONS: Final = 32
"""Of one download to all of its origins: as many as the kind that stands most."""


def for_sources(
    settings: Settings,
    sources: Sequence[str],
    *,
    headers: tuple[tuple[str, str], ...] = (),
    checksum: str | None = None,
) -> m.Transfer:
    """Return how to fetch *sources* under the settings in force now; *headers* are sealed, as
    the arguments of jobs lie in the ledger."""
    per_origin = settings.whole("direct.download.connections.per.origin")
    return m.Transfer(
        sources=tuple(sources),
        headers=headers,
        checksum=checksum,
        follow_redirects=settings.flag("store.download.follow.redirects"),
        allowed_cidrs=settings.cidrs(INTERNAL_SITES),
        nfs_servers=settings.cidrs(NFS_SERVERS),
        connect_timeout=settings.whole("direct.download.connect.timeout") / 1000,
        stall_timeout=settings.whole("direct.download.socket.timeout") / 1000,
        max_connections=max(8, per_origin) if per_origin else CONNECTIONS,
        max_connections_per_origin=per_origin or None,
        require_checksum=settings.flag("direct.download.require.checksum"),
    )


def sources_of(row: Row[Any]) -> tuple[list[str], tuple[tuple[str, str], ...], list[str]]:
    """Return (sources, encrypted headers, origins) of a template's row."""
    return loads(row.sources), sealed.headers_in(loads(row.details)), loads(row.origins)


def with_secrets(settings: Settings, vault: Vault, document: m.Document) -> m.Document:
    """Return *document* as it is sent: with its request headers in clear, signed links to objects,
    and through the proxy in force now, which may come with a password and is not kept with the
    jobs in the ledger. Blocks where links are signed."""
    proxy = settings.text("direct.download.proxy")
    commands = []
    for command in document.commands:
        args = command.args
        if isinstance(args, m.DownloadArgs | m.ProbeArgs | m.CheckArgs | m.DocumentsArgs):
            headers = sealed.open_headers(vault, args.transfer.headers)
            sources = objects.linked(settings, args.transfer.sources)
            transfer = replace(
                args.transfer,
                sources=sources,
                proxy=proxy or None,
                headers=headers,
                rules=_rules(settings, sources),
            )
            args = replace(args, transfer=transfer)
        commands.append(replace(command, args=args))
    return replace(document, commands=tuple(commands))


async def complete(settings: Settings, vault: Vault, document: m.Document) -> m.Document:
    """``with_secrets``, in a thread where it may block."""
    transfers = (getattr(command.args, "transfer", None) for command in document.commands)
    if any(is_object(one) for transfer in transfers if transfer for one in transfer.sources):
        return await asyncio.to_thread(with_secrets, settings, vault, document)
    return with_secrets(settings, vault, document)


def _rules(settings: Settings, sources: tuple[str, ...]) -> tuple[m.OriginRule, ...]:
    """What the operator says of the origins of *sources*; a keyring is the manager's own."""
    fields = [field.name for field in fields_of(m.OriginRule)]
    return tuple(
        m.OriginRule(**{name: getattr(rule, name) for name in fields})
        for rule in settings.origins.about(sources)
    )


def for_url(settings: Settings, url: str) -> m.Transfer:
    """Return how to ask *url*; ApiParamError where it cannot be an origin."""
    check_origin(settings, url)
    return for_sources(settings, [url])


def check_origin(settings: Settings, url: str) -> Url:
    """Return *url*, taken apart; ApiParamError where it cannot be an origin now."""
    found = check_url(
        url,
        allowed_cidrs=settings.cidrs(INTERNAL_SITES),
        nfs_servers=settings.cidrs(NFS_SERVERS),
    )
    if reason := refused_by(settings.origins.rules, found):
        raise ApiParamError(f"Please specify a valid URL: {reason}")
    return found
