# SPDX-License-Identifier: Apache-2.0
"""A target that is an existing regular file: it matches the digest, or is left alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastdl.engine.again import again
from fastdl.engine.landing.head import detect_fd
from fastdl.engine.release import of_source
from fastdl.engine.result import Result
from fastdl.errors import SinkRefusedError
from fastdl.model.digest import Digest, hasher
from fastdl.model.url import Url
from fastdl.sinks.base import read_back

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.resolve import Source
    from fastdl.engine.workspace import Existing, Workspace


def compare(workspace: Workspace, source: Source, ctx: TransferContext) -> Result:
    """The result where what exists has the wanted digest already; SinkRefusedError otherwise.

    What an earlier run of this job published, and was killed before it could report it, is right
    without a digest too.
    """
    if workspace.earlier is not None:
        facts, _ = source.look(probe=True)
        if workspace.earlier.is_for(of_source(facts, ctx.options)):
            done = again(workspace, workspace.earlier, facts, ctx)
            if done is not None:
                return done
    existing = workspace.existing
    assert existing is not None
    product = ctx.product
    wanted = ctx.options.checksum or (product.digest if product else None)
    if ctx.options.skip_existing and wanted is None:
        ctx.events.warn("the file exists already and was not compared with anything")
        return _left_alone(existing, ctx)
    size: int | None = None
    integrity = "none" if wanted is None else wanted.strength
    signed_by = product.signed_by if product else None
    described = ctx.wants_a_list or any(map(_is_metalink, source.sources))
    unsigned = ctx.options.keyring is not None and signed_by is None
    asked = unsigned or (wanted is None and described)
    known = source.look(probe=True)[0] if asked else source.known
    if known is not None and known.signatures:
        return _signed(existing, known, ctx)
    if known is not None and (asked or (wanted is None and known.metalink)):
        wanted, size = known.digests.strongest(), known.size
        integrity, signed_by = known.digests.integrity(), known.signed_by
    if wanted is not None and size in (None, os.fstat(existing.fd).st_size):
        done = matching(existing, wanted, ctx, integrity=integrity, signed_by=signed_by)
        if done is not None:
            return done
    raise SinkRefusedError(
        f"{existing.path} exists already"
        + (" with other content" if wanted is not None else "")
        + ": remove it, replace it (--overwrite file), or resume from it (-c)",
        phase="land",
    )


def matching(
    existing: Existing,
    wanted: Digest,
    ctx: TransferContext,
    *,
    integrity: str,
    signed_by: str | None,
) -> Result | None:
    """The result where *existing* has the digest *wanted*; None where it has another one."""
    got, length = _digest_of(existing.fd, wanted, ctx.cancel)
    if got != wanted:
        return None
    ctx.events.warn("the target already exists and matches the digest")
    return Result.of_present(
        existing.path,
        length,
        detect_fd(existing.fd),
        seconds=ctx.seconds,
        warnings=ctx.events.warnings,
        digests={got.algorithm: got.hex},
        integrity=integrity,
        consistency="digest",
        signed_by=signed_by,
    )


def _signed(existing: Existing, facts: SourceFacts, ctx: TransferContext) -> Result:
    """The result where what exists has a valid signature; IntegrityError where it has none."""
    from fastdl.engine.signed import check_signatures

    size = os.fstat(existing.fd).st_size
    signer = check_signatures(facts, existing.fd, size, ctx)
    ctx.events.warn("the target already exists and is signed")
    return _left_alone(existing, ctx)._replace(integrity="strong", signed_by=signer)


def _is_metalink(source: str) -> bool:
    return Url.parse(source).is_metalink_name()


def _left_alone(existing: Existing, ctx: TransferContext) -> Result:
    size = os.fstat(existing.fd).st_size
    return Result.of_present(
        existing.path,
        size,
        detect_fd(existing.fd),
        seconds=ctx.seconds,
        warnings=ctx.events.warnings,
        digests={},
        integrity="none",
        consistency="response",
    )._replace(resumed_bytes=0)


def _digest_of(fd: int, wanted: Digest, cancel: Cancel) -> tuple[Digest, int]:
    md = hasher(wanted.algorithm)
    length = 0
    while data := read_back(fd, 1 << 20, length):
        cancel.check()
        md.update(data)
        length += len(data)
    return Digest(wanted.algorithm, md.hexdigest()), length
