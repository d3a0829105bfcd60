# SPDX-License-Identifier: Apache-2.0
"""LAND: write a source to the target, unchanged unless a subclass decodes it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.checkpoint import Kept, open_checkpoint
from fastdl.engine.inspection import EndsReader, inspect_image
from fastdl.engine.landing.head import inspect_fd
from fastdl.engine.options import FetchOptions
from fastdl.engine.proof import Outcome, bottleneck, mirror_reports, stages, verify
from fastdl.engine.release import Showing, begun, of_source, released
from fastdl.engine.result import Result
from fastdl.engine.transfer import run_job, start_job
from fastdl.errors import Cancelled, FastdlError, HttpStatusError, NetError, Reason
from fastdl.model.image import TAIL_BYTES, Format
from fastdl.sinks.base import Sink, read_back

if TYPE_CHECKING:
    from fastdl.engine.checkpoint import Checkpoint
    from fastdl.engine.context import TransferContext
    from fastdl.engine.release import Release
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse
    from fastdl.engine.spool import Spool
    from fastdl.engine.workspace import Workspace


class Landing(Protocol):
    """A way to land, chosen by the plan."""

    def land(
        self,
        facts: SourceFacts,
        response: FirstResponse,
        workspace: Workspace,
        ctx: TransferContext,
    ) -> Result:
        """Write the source into *workspace*, whose ``keep`` is valid on return or failure.

        On return digests, size and format are verified and everything is flushed: only the target's
        name is missing. The journal stays until publication.
        """


class Job(Protocol):
    """``fetch.fetch_into``, for a landing that needs a nested job."""

    def __call__(
        self, workspace: Workspace, sources: Sequence[str], ctx: TransferContext
    ) -> Result:
        """Fetch *sources* into *workspace*."""


class Lander:
    """The source is written unchanged: every block at its own offset.

    *format* is the source's; *target_size* and *virtual_size* in bytes, None where not known yet.
    *check_whole*: an image is kept as it is, and checked as a whole before it is published.
    *disk_head*: the first bytes of what becomes a disk as it is: with its last ones they are
    checked before it is published, and a fixed VHD loses its footer.
    """

    kind = "same"
    sparse = False
    decodes = False
    """The target does not hold the source's bytes: these are kept besides, for a resume."""

    def __init__(
        self,
        options: FetchOptions,
        *,
        format: str,  # noqa: A002 - the word for it everywhere
        target_size: int | None,
        virtual_size: int | None = None,
        resumable: bool = False,
        check_whole: bool = False,
        disk_head: bytes | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.options = options
        self.format = format
        self.target_size = target_size
        self.virtual_size = virtual_size
        self.resumable = resumable
        self.check_whole = check_whole
        self.disk_head = disk_head
        self.disk_size: int | None = None
        self.warnings = list(warnings)

    def land(
        self,
        facts: SourceFacts,
        response: FirstResponse,
        workspace: Workspace,
        ctx: TransferContext,
    ) -> Result:
        """See ``Landing``."""
        sink = workspace.sink
        signed_by, integrity = facts.signed_by, facts.integrity
        self.check_room(sink)
        with self._checkpoint(facts, workspace, ctx) as checkpoint:
            asked = ctx.asked or of_source(facts, ctx.options)
            if sink.hold and self.target_size is None:  # its end is not held back
                begins = begun(asked, sink.identity, sink.capacity or 0)
                self._note(workspace, begins)
            workspace.begin(self.target_size, sparse=self.sparse)
            if workspace.found is not None or workspace.damaged is not None:
                self._take_up(workspace, facts, checkpoint, ctx)
            core_sink = sink.core_sink(self.target_size)
            try:
                core_sink.begin()
                with _read_back(sink, core_sink, ctx.options):
                    decoding = self.decoding(facts, sink, core_sink, checkpoint.block)
                    job = start_job(facts, response, sink, core_sink, checkpoint, ctx, decoding)
                    outcome = run_job(job, facts, core_sink, checkpoint, ctx)
                    self.landed()
                    digests = verify(facts, response.index, outcome)
                    if ctx.describes:
                        from fastdl.engine.described import described  # rare

                        ctx.events.described = described(facts, outcome)
                    ctx.events.list_used = False  # what was shared has proven right
                    if ctx.list_length:
                        ctx.events.listed = outcome.listed
                    if facts.signatures:
                        from fastdl.engine.signed import check_signatures  # rare

                        signed_by = check_signatures(facts, sink.buffered_fd, outcome.total, ctx)
                        integrity = "strong"
                    self.finish(sink, core_sink, outcome)
                    size = self.final_size(outcome)
                    if ctx.options.zero_rest:
                        _zero_rest(sink, size)
                    self._note_release(workspace, asked, core_sink, outcome.total, size)
                    core_sink.release()
                    core_sink.flush()
            finally:
                core_sink.close()
        ctx.events.warn(*self.warnings)
        return Result(
            target=sink.path,
            source_bytes=outcome.total,
            target_bytes=size,
            fetched_bytes=outcome.status["fetched_bytes"],
            resumed_bytes=outcome.resumed,
            digests=digests,
            integrity=integrity,
            consistency=facts.consistency,
            format=self.format,
            seconds=ctx.seconds,
            stages=stages(outcome.status),
            bottleneck=bottleneck(outcome.status, len(digests)),
            mirrors=mirror_reports(facts),
            warnings=ctx.events.warnings,
            virtual_size=self.virtual_size,
            landing=self.kind,
            signed_by=signed_by,
            by_pieces=facts.by_pieces,
        )

    def _note_release(
        self,
        workspace: Workspace,
        asked: Release,
        core_sink: CoreSink,
        source_bytes: int,
        size: int,
    ) -> None:
        """Note what is about to show; where a job around this one asked, as what that calls it."""
        sink, outer = workspace.sink, asked.showing
        holding = core_sink if sink.hold else None
        showing = Showing(
            source_bytes=outer.source_bytes if outer else source_bytes,
            target_bytes=size,
            format=outer.format if outer else self.format,
            virtual_size=self.virtual_size,
            landing=outer.landing if outer else self.kind,
        )
        self._note(
            workspace,
            released(asked, sink.identity, showing, holding, max(512, sink.sector_size)),
        )

    def _note(self, workspace: Workspace, note: Release) -> None:
        if warning := workspace.note(note):
            self.warnings.append(warning)

    @contextmanager
    def _checkpoint(
        self, facts: SourceFacts, workspace: Workspace, ctx: TransferContext
    ) -> Iterator[Checkpoint]:
        """The journal for the duration of the block; sets ``workspace.keep`` afterwards."""
        keeps = self.decodes and self._keeps(facts, workspace, ctx)
        earlier = keeps and workspace.spooled
        spool = self._spool(facts, workspace, ctx) if earlier else None
        kept: Kept = workspace.sink
        journal = workspace.journal if self.resumable else None
        if spool is not None:
            kept, journal = spool, spool.journal
        checkpoint = open_checkpoint(journal, kept, facts, ctx.options, self.kind)
        if spool is not None and checkpoint.writer is not None:
            checkpoint.spool = spool.core_sink(facts.size or 0)
        elif keeps and not earlier:
            checkpoint.later = partial(self._keep, checkpoint, facts, workspace, ctx)
        over = False
        try:
            if checkpoint.warning:
                ctx.events.warn(checkpoint.warning)
            yield checkpoint
            workspace.keep = False  # nothing is left to resume from
        except BaseException as exc:
            over = not can_continue(exc)
            if isinstance(exc, FastdlError) and exc.reason is Reason.WRONG_PIECE:
                over = not checkpoint.holds
                checkpoint.disown(exc.offset, facts.piece_length)
            workspace.keep = self.resumable and checkpoint.writer is not None and not over
            if workspace.keep and workspace.sink.kind == "file":  # the next attempt goes on
                workspace.sink.blank, workspace.sink.resumable = False, True
            raise
        finally:
            checkpoint.close(remove=over)
            if over:
                workspace.drop_spool()
            if checkpoint.warning:
                ctx.events.warn(checkpoint.warning)

    def _keeps(self, facts: SourceFacts, workspace: Workspace, ctx: TransferContext) -> bool:
        """Whether a next run could use the source's bytes."""
        local = ctx.proven or any(url.scheme == "file" for url in facts.urls)
        if local or workspace.sink.kind not in ("file", "block", "nbd"):
            return False
        if not ctx.options.resume:
            workspace.drop_staging()
            return False
        size = facts.size or 0
        return not facts.one_response and size > 2 * ctx.options.block_size

    def _keep(
        self,
        checkpoint: Checkpoint,
        facts: SourceFacts,
        workspace: Workspace,
        ctx: TransferContext,
    ) -> None:
        """Open the spool of an attempt that runs already, and its journal."""
        spool = self._spool(facts, workspace, ctx)
        if spool is None:
            return
        try:
            made = open_checkpoint(spool.journal, spool, facts, ctx.options, self.kind)
        except FastdlError as exc:  # the transfer that runs does not depend on it
            ctx.events.warn(f"this download cannot be resumed: {exc.message}")
            return
        if made.local or made.block != checkpoint.block:  # of another job that has just ended
            made.close(remove=False)
            return
        checkpoint.warning, checkpoint.writer = made.warning, made.writer
        if made.writer is not None:
            checkpoint.kept, checkpoint.spool = spool, spool.core_sink(facts.size or 0)

    def _spool(
        self, facts: SourceFacts, workspace: Workspace, ctx: TransferContext
    ) -> Spool | None:
        """Where the source's bytes are kept for the next run; None, with a warning: nowhere."""
        try:
            return workspace.spool(facts.size or 0)
        except FastdlError as exc:
            ctx.events.warn(f"this download cannot be resumed: {exc.message}")
            return None

    def _take_up(
        self, workspace: Workspace, facts: SourceFacts, checkpoint: Checkpoint, ctx: TransferContext
    ) -> None:
        """Begin with what another program left, or a damaged copy has, where this way to land
        can."""
        size, block, can = facts.size, checkpoint.block, self.kind == "same"
        if size and can and not checkpoint.local and workspace.damaged and facts.pieces:
            from fastdl.engine.mending import mend

            mended = mend(workspace.damaged, facts.pieces, workspace.sink, size, block, ctx.cancel)
            checkpoint.adopt(mended.records)
            right = mended.pieces - len(mended.wrong)
            ctx.events.warn(
                f"of the damaged copy {right} of {mended.pieces} pieces were right: only the "
                "others were fetched"
            )
        elif size and can and not checkpoint.local and workspace.found:
            from fastdl.engine.takeover import take_up

            records = take_up(workspace.found, workspace.sink, size, block, ctx.cancel)
            checkpoint.adopt(records)
            workspace.taken_up = bool(records)
        workspace.drop_found()

    def check_room(self, sink: Sink) -> None:
        """Refuse an image that cannot fit, before the first write."""
        if self.target_size is not None:
            sink.check_size(self.target_size)

    def decoding(
        self, _facts: SourceFacts, sink: Sink, _core_sink: CoreSink, _block: int
    ) -> dict[str, Any]:
        """The job's settings for this way to land, as fields of ``core.config.JobConfig``."""
        return {"detect_zeros": self.detects_zeros(sink)}

    def landed(self) -> None:
        """Store what only the decoder knows: it ends with its job."""

    def detects_zeros(self, sink: Sink) -> bool:
        """Zeroing beats writing zeros on devices and where holes are wanted."""
        if self.options.detect_zeros is not None:
            return self.options.detect_zeros
        return sink.kind in ("block", "nbd") or self.sparse

    def finish(self, sink: Sink, core_sink: CoreSink, outcome: Outcome) -> None:
        """Check the whole image, tables included, before it is published."""
        if self.check_whole and sink.buffered_fd >= 0 and sink.kind != "stream":
            info = inspect_fd(sink.buffered_fd, outcome.total, self.options)
            info.require_safe()
            self.virtual_size = info.virtual_size
        elif self.disk_head is not None:
            self._finish_disk(sink, core_sink, self.disk_head, self.landed_size(outcome))

    def _finish_disk(self, sink: Sink, core_sink: CoreSink, head: bytes, size: int) -> None:
        """Check both ends of the written image: a fixed VHD is recognisable only at its end."""
        tail = self.last_bytes(sink, core_sink, size)
        if tail is None:
            return
        info = inspect_image(
            EndsReader(head[:size], tail, size),
            declared=self.declared(),
            max_virtual_size=self.options.max_virtual_size,
        )
        info.require_safe()
        self.virtual_size = info.virtual_size
        if info.format is Format.VHD and info.virtual_size is not None:
            self.disk_size = info.virtual_size
            if sink.capacity is not None:
                core_sink.zero(self.disk_size, size - self.disk_size)
            self.note_footer()

    def declared(self) -> str:
        """The declared format of the disk."""
        return self.options.source_format

    def note_footer(self) -> None:
        """The written image is a fixed VHD."""
        self.format = str(Format.VHD)
        self.kind = "vhd-to-raw"

    def last_bytes(self, sink: Sink, core_sink: CoreSink, size: int) -> bytes | None:
        """The last bytes of the written image; None if unreadable."""
        length = min(TAIL_BYTES, size)
        if sink.kind == "file":
            return read_back(sink.buffered_fd, length, size - length)
        return core_sink.held(size - length, length)

    def landed_size(self, outcome: Outcome) -> int:
        """Bytes written to the target."""
        return outcome.total

    def final_size(self, outcome: Outcome) -> int:
        """Bytes of the image on the target."""
        return self.landed_size(outcome) if self.disk_size is None else self.disk_size


def decode_threads() -> int:
    """Two for each processor: while one waits for its direct write another decodes.

    Measured on two processors, 64 KiB clusters: four took a quarter off the time of two, six
    gave nothing more.
    """
    return min(8, max(4, 2 * len(os.sched_getaffinity(0))))


@contextmanager
def _read_back(sink: Sink, core_sink: CoreSink, options: FetchOptions) -> Iterator[None]:
    """Read the target back and compare, if requested."""
    if not options.verify_readback:
        yield
        return
    from fastdl.engine.readback import Readback

    readback = Readback(sink, core_sink)
    try:
        yield
        readback.finish()
    finally:
        readback.cancel()


def _zero_rest(sink: Sink, image_size: int) -> None:
    """Zero a device after the image, so that nothing of its former content is left."""
    if sink.capacity is None or sink.capacity <= image_size:
        return
    rest = sink.core_sink(sink.capacity, hold=0)
    try:
        rest.zero(image_size, sink.capacity - image_size)
        rest.flush()
    finally:
        rest.close()


def can_continue(exc: BaseException) -> bool:
    """Whether the data fetched before *exc* is useful to a later run.

    It is after a cancellation or a lost network, and if everything is verified and only the name
    could not be given, and if one piece is wrong; not after a wrong digest, a changed source, or a
    failed target, whose content is unknown.
    """
    if not isinstance(exc, FastdlError) or isinstance(exc, Cancelled) or exc.phase == "publish":
        return True
    if exc.reason is Reason.WRONG_PIECE:
        return True
    if isinstance(exc, HttpStatusError) and exc.http_status in (401, 403):
        return True  # a signed link that died says nothing of the bytes
    return exc.retryable and isinstance(exc, NetError | HttpStatusError)
