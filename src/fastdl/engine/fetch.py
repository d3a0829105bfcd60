# SPDX-License-Identifier: Apache-2.0
"""A download job: resolve → plan → land → publish, each stage entered from here.

The later stages' modules are loaded while the first response is pending, to keep start-up fast.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastdl.engine.attempts import MAX_ATTEMPTS, Attempts
from fastdl.engine.cancel import Cancel
from fastdl.engine.context import Events, TransferContext
from fastdl.engine.expand import Sources
from fastdl.engine.options import HERE, FetchOptions, Placement, Progress
from fastdl.engine.source.resolve import Source
from fastdl.engine.workspace import Workspace, open_workspace
from fastdl.errors import FastdlError, IntegrityError, SinkRefusedError
from fastdl.sinks.open import existing_file
from fastdl.sources.naming import url_name

if TYPE_CHECKING:
    from fastdl.core.job import Pace
    from fastdl.engine.result import Result
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse

    Into = Callable[[Workspace, Sequence[str], TransferContext], Result]

UNVERIFIED = "no checksum is known: the bytes are not verified (integrity none)"


def fetch_job(
    sources: Sequence[str],
    target: str,
    options: FetchOptions,
    *,
    events: Events | None = None,
    cancel: Cancel | None = None,
    pace: Pace | None = None,
    placement: Placement = HERE,
    into: Into | None = None,
) -> Result:
    """Fetch *sources* (mirrors of the same bytes, or metalinks) to *target*, verified.

    *into*: how the workspace is filled; ``fetch_into`` by default. Blocks until the target is
    published. Raises a FastdlError; the target is then unchanged or unusable (a device's head and
    tail are zero), never partly valid.
    """
    cancel, events = cancel or Cancel(), events or Events()
    with cancel.within(options.max_time):
        found = Sources(sources, options, cancel)
        while True:
            under = options
            if under.origin_rules:
                from fastdl.engine.rules import under_rules

                under = under_rules(under, found.urls)
            ctx = TransferContext(
                under, cancel, events, placement, pace=pace, product=found.product
            )
            try:
                return publish_job(found.urls, target, ctx, into)
            except FastdlError as exc:
                cancel.check()  # a stage may have ended because its time was up
                if not found.renew(exc):
                    raise
                events.warn("a signed link expired: continued with a new one")


def publish_job(
    sources: Sequence[str], target: str, ctx: TransferContext, into: Into | None = None
) -> Result:
    """``fetch_job`` in an existing context."""
    ctx.events.report(Progress(stage="resolve"))
    document = ctx.options.write_metalink
    if document is not None:
        from fastdl.engine.described import check_place

        check_place(document, overwrite=ctx.options.overwrite == "file")
    name = url_name(sources)
    with Source(sources, ctx) as source:
        if os.path.isdir(target) and existing_file(target, name_hint=name) is None:  # noqa: PTH112
            from fastdl.engine.folder import open_named

            workspace = open_named(target, source, ctx)
        else:
            workspace = open_workspace(target, ctx.options, ctx.placement, name_hint=name)
        if document is not None:
            _check_apart(document, workspace)
        if into is not None:
            return workspace.publishing(lambda: into(workspace, sources, ctx), ctx)
        result = workspace.publishing(lambda: _fetch(workspace, source, ctx), ctx)
    if ctx.describes and document is not None:
        from fastdl.engine.described import write_metalink

        write_metalink(document, result, sources, ctx)
        result = result._replace(warnings=ctx.events.warnings)
    return result


def _check_apart(document: str, workspace: Workspace) -> None:
    """Close the *workspace*, as it was, where the *document* would take its target's place."""
    from fastdl.engine.described import check_apart

    existing = workspace.existing or workspace.found
    try:
        if existing is not None or workspace.sink.kind == "file":
            check_apart(document, workspace.sink.path if existing is None else existing.path)
    except FastdlError:
        with contextlib.suppress(FastdlError):
            workspace.abort()
        workspace.close()
        raise


def fetch_into(workspace: Workspace, sources: Sequence[str], ctx: TransferContext) -> Result:
    """Fetch *sources* into *workspace*: verified and durable on return, but not published.

    No file is opened by name except sources and trust anchors. Raises a FastdlError;
    ``workspace.keep`` then tells whether a later run can resume.
    """
    with Source(sources, ctx) as source:
        return _fetch(workspace, source, ctx)


def _fetch(workspace: Workspace, source: Source, ctx: TransferContext) -> Result:
    try:
        if workspace.existing is not None:
            from fastdl.engine.compare import compare

            return compare(workspace, source, ctx)
        with ctx.cancel.stops(workspace.sink.hurry):
            return _until_proven(workspace, source, ctx)
    except FastdlError as exc:
        exc.add_context(public_source=ctx.public_only)
        raise
    finally:
        workspace.keep = workspace.keep and ctx.options.resume


def _until_proven(workspace: Workspace, source: Source, ctx: TransferContext) -> Result:
    """The result of as many attempts as it takes, with a list of pieces that was shared and then
    without it."""
    try:
        return _with_attempts(workspace, source, ctx)
    except IntegrityError as exc:
        if workspace.sink.sent or not ctx.drop_list():
            raise
        ctx.events.warn(f"tried again without the list of pieces of another host: {exc.message}")
    return _with_attempts(workspace, source, ctx)


def _with_attempts(workspace: Workspace, source: Source, ctx: TransferContext) -> Result:
    attempts = Attempts(ctx.options.retry)
    for _ in range(MAX_ATTEMPTS):
        ctx.cancel.check()
        facts, response = source.open(attempts.earlier)
        with response:
            try:
                return _attempt(facts, response, workspace, ctx, attempts)
            except FastdlError as exc:
                if isinstance(exc, IntegrityError) and workspace.taken_up:
                    workspace.taken_up = False
                    ctx.events.warn(
                        "the existing data is no part of this file: all of it was fetched"
                    )
                    continue
                then = attempts.after(exc, facts)
                if then is None or workspace.sink.sent:
                    raise
                ctx.events.warn(then.why)
    raise IntegrityError("no mirror served data that matches the digest", phase="verify")


def _attempt(
    facts: SourceFacts,
    response: FirstResponse,
    workspace: Workspace,
    ctx: TransferContext,
    attempts: Attempts,
) -> Result:
    """Plan and land what was resolved."""
    from fastdl.engine.landing.plan import plan  # see above

    def inner(workspace: Workspace, sources: Sequence[str], ctx: TransferContext) -> Result:
        attempts.delegated = True
        return fetch_into(workspace, sources, ctx)

    attempts.check(response)
    if workspace.found is not None and not facts.provable:
        raise SinkRefusedError(
            f"{workspace.found.path} exists already, and no checksum or pieces would prove it in "
            "the end: give --checksum, remove it, or replace it (--overwrite file)",
            phase="land",
        )
    whole = None if facts.signatures else facts.digests.strongest()
    if (found := workspace.found) is not None and whole is not None:
        from fastdl.engine.compare import matching

        integrity, signer = facts.digests.integrity(), facts.signed_by
        if os.fstat(found.fd).st_size == facts.size and (
            done := matching(found, whole, ctx, integrity=integrity, signed_by=signer)
        ):
            workspace.keep_found()
            return done
    if ctx.options.remote_time and response.last_modified is not None:
        from fastdl.model.http_date import parse_http_date

        workspace.mtime = parse_http_date(response.last_modified)
    ctx.events.warn(*facts.warnings)
    if facts.integrity == "none" and not ctx.proven and not facts.signatures:
        ctx.events.warn(UNVERIFIED)
    try:
        if workspace.earlier is not None and not ctx.proven:
            from fastdl.engine.again import again  # rare

            done = again(workspace, workspace.earlier, facts, ctx)
            if done is not None:
                return done
        landing = plan(facts, response, workspace.sink, ctx, inner)
        attempts.planned = True
        return landing.land(facts, response, workspace, ctx)
    except FastdlError as exc:
        exc.add_context(origin=_origin_of(exc, facts))
        raise


def _origin_of(exc: FastdlError, facts: SourceFacts) -> str | None:
    """The mirror that *exc* is about, for the operator."""
    index = exc.mirror
    if index is None and len(facts.urls) == 1 and exc.exit_code < 20:
        index = 0
    return None if index is None else facts.urls[index].display()
