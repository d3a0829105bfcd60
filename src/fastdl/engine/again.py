# SPDX-License-Identifier: Apache-2.0
"""A target that shows the work of a run which was killed at its end: is it this job's?"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastdl.engine.release import Release, Showing, of_source
from fastdl.engine.result import Result
from fastdl.errors import SinkRefusedError
from fastdl.sinks.base import read_back

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.workspace import Workspace

_AS_IT_IS = "same"


def again(
    workspace: Workspace, earlier: Release, facts: SourceFacts, ctx: TransferContext
) -> Result | None:
    """The result of the run that *earlier* notes, durable on return; None: to be done again.

    Raises the target's refusal where it is another job's work, or was written to since.
    """
    sink = workspace.sink
    refusal = sink.refusal or SinkRefusedError(
        f"{sink.path} exists already: remove it, or replace it with --overwrite file",
        phase="land",
    )
    if not earlier.is_for(of_source(facts, ctx.options)):
        raise refusal
    if not workspace.whole or earlier.showing is None:
        ctx.events.warn("an earlier run was stopped while the image became visible: done again")
        return None
    if workspace.existing is None:
        core_sink = sink.core_sink(earlier.showing.target_bytes, hold=0)
        try:
            core_sink.flush()
        finally:
            core_sink.close()
        if not _holds_it(workspace, earlier.showing, facts, ctx):
            raise refusal
        workspace.drop_staging()
    ctx.events.warn("the target was there already, published by an earlier run of this download")
    return _result(workspace, earlier.showing, facts, ctx)


def _holds_it(
    workspace: Workspace, showing: Showing, facts: SourceFacts, ctx: TransferContext
) -> bool:
    """Read a device again where a digest of what lies there is known; say so where none is."""
    wanted = facts.digests.strongest()
    fd = workspace.sink.buffered_fd
    if wanted is None or showing.landing != _AS_IT_IS or fd < 0:
        ctx.events.warn(
            "its first and last MiB are what was published; the rest was not read again"
        )
        return True
    md = hashlib.new(wanted.algorithm.replace("sha-", "sha"))
    at = 0
    while data := read_back(fd, min(1 << 20, showing.target_bytes - at), at):
        ctx.cancel.check()
        md.update(data)
        at += len(data)
    return md.hexdigest() == wanted.hex


def _result(
    workspace: Workspace, showing: Showing, facts: SourceFacts, ctx: TransferContext
) -> Result:
    target = workspace.sink if workspace.existing is None else workspace.existing
    return Result.of_present(
        target.path,
        showing.source_bytes,
        showing.format,
        seconds=ctx.seconds,
        warnings=ctx.events.warnings,
        digests=facts.digests.to_dict(),
        integrity=facts.integrity,
        consistency=facts.consistency,
    )._replace(
        target_bytes=showing.target_bytes,
        virtual_size=showing.virtual_size,
        landing=showing.landing,
    )
