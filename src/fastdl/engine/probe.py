# SPDX-License-Identifier: Apache-2.0
"""What registration needs to know about a source, from its first bytes; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from fastdl.engine.cancel import Cancel
from fastdl.engine.landing.head import judge_head
from fastdl.engine.options import FetchOptions
from fastdl.engine.resolve import resolve
from fastdl.engine.result import Probe


def probe_job(sources: Sequence[str], options: FetchOptions, cancel: Cancel) -> Probe:
    """Resolve *sources* and judge the image's head. Raises what ``fetch_sync`` would."""
    found = resolve(sources, options, cancel)
    try:
        info = judge_head(found, options, reach=cancel)
        url, mirror = found.urls[found.first], found.mirrors[found.first]
        return Probe(
            url=url.display(),
            size=found.size,
            ranges=bool(mirror.ranges),
            validators={
                name: value
                for name, value in (
                    ("etag", mirror.etag),
                    ("last_modified", mirror.last_modified),
                )
                if value
            },
            format=info.name,
            virtual_size=info.virtual_size,
            digests=found.digests.to_dict(),
            pieces=(
                {
                    "algorithm": found.pieces.algorithm,
                    "length": found.pieces.length,
                    "count": found.pieces.count,
                }
                if found.pieces
                else None
            ),
            mirrors=tuple(
                {"url": u.display(), "priority": m.priority, "state": m.state}
                for u, m in zip(found.urls, found.mirrors, strict=True)
            ),
            metalink=found.metalink,
            safe=(True if info.whole else None) if info.safe else False,
            error=None if info.refusal is None else info.refusal.code_name,
            reasons=info.reasons,
            public_source=found.net.public_only,
            warnings=(*found.warnings, *info.warnings),
        )
    finally:
        found.close()
