# SPDX-License-Identifier: Apache-2.0
"""How hosts are told to fetch: the settings in force, as the wire's ``Transfer``."""

from __future__ import annotations

from collections.abc import Sequence

from fastdl.manager.registration import check_url
from fastdl.manager.services import Services
from fastdl.wire import messages as m


def for_sources(
    services: Services,
    sources: Sequence[str],
    *,
    headers: tuple[tuple[str, str], ...] = (),
    checksum: str | None = None,
) -> m.Transfer:
    """Return how to fetch *sources* under the settings in force now."""
    settings = services.settings
    per_origin = settings.whole("direct.download.connections.per.origin")
    return m.Transfer(
        sources=tuple(sources),
        headers=headers,
        checksum=checksum,
        follow_redirects=settings.flag("store.download.follow.redirects"),
        allowed_cidrs=settings.cidrs("secstorage.allowed.internal.sites"),
        connect_timeout=settings.whole("direct.download.connect.timeout") / 1000,
        stall_timeout=settings.whole("direct.download.socket.timeout") / 1000,
        max_connections=max(8, per_origin),
        max_connections_per_origin=per_origin,
        require_checksum=settings.flag("direct.download.require.checksum"),
        proxy=settings.text("direct.download.proxy") or None,
    )


def for_url(services: Services, url: str) -> m.Transfer:
    """Return how to ask *url*; ApiParamError where it cannot be an origin."""
    check_url(url, allowed_cidrs=services.settings.cidrs("secstorage.allowed.internal.sites"))
    return for_sources(services, [url])
