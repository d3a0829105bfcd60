# SPDX-License-Identifier: Apache-2.0
"""What registration needs to know about a source, from its first bytes; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.context import TransferContext
from fastdl.engine.expand import Sources
from fastdl.engine.landing.head import inspect_head
from fastdl.engine.options import FetchOptions
from fastdl.engine.result import Probe
from fastdl.engine.rules import under_rules
from fastdl.engine.source.resolve import resolve
from fastdl.errors import FastdlError

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse
    from fastdl.model.image import ImageInfo


def probe_job(sources: Sequence[str], options: FetchOptions, cancel: Cancel) -> Probe:
    """Resolve *sources* and check the image's head. Raises the same errors as ``fetch_sync``."""
    found = Sources(sources, options, cancel)
    sources = found.urls
    ctx = TransferContext(under_rules(options, sources), cancel, product=found.product)
    try:
        facts, response = resolve(sources, ctx, probe=True)
        with response:
            info = inspect_head(facts, response, ctx, reach=True)
            return _probe(facts, response, info, ctx)
    except FastdlError as exc:
        exc.add_context(public_source=ctx.public_only)
        raise


def _unchecked(facts: SourceFacts) -> tuple[str, ...]:
    """What of the source only a download can check."""
    if not facts.signatures:
        return ()
    return ("the file itself is signed: that is checked when all of it is fetched",)


def _probe(
    facts: SourceFacts, response: FirstResponse, info: ImageInfo, ctx: TransferContext
) -> Probe:
    mirror, pieces = response.mirror, facts.pieces
    validators = {"etag": mirror.etag, "last_modified": mirror.last_modified}
    return Probe(
        url=facts.urls[response.index].display(),
        size=facts.size,
        ranges=bool(mirror.ranges),
        validators={name: value for name, value in validators.items() if value},
        format=info.name,
        virtual_size=info.virtual_size,
        digests=facts.digests.to_dict(),
        pieces=(
            {"algorithm": pieces.algorithm, "length": pieces.length, "count": pieces.count}
            if pieces
            else None
        ),
        mirrors=tuple(
            {"url": u.display(), "priority": m.priority, "state": m.state}
            for u, m in zip(facts.urls, facts.mirrors, strict=True)
        ),
        metalink=facts.metalink,
        safe=(True if info.whole else None) if info.safe else False,
        error=None if info.refusal is None else info.refusal.code_name,
        reasons=info.reasons,
        public_source=ctx.public_only,
        warnings=(*facts.warnings, *info.warnings, *_unchecked(facts)),
        signed_by=facts.signed_by,
    )
