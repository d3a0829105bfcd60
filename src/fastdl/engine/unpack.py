# SPDX-License-Identifier: Apache-2.0
"""How does a compressed image become a file in the image's own format?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.engine.fetch import fetch_into, publish_job
from fastdl.engine.options import FetchOptions

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.result import Result
    from fastdl.engine.workspace import Workspace

_LANDING = ("source_format", "target_format", "max_virtual_size", "overwrite")
"""The options that concern the unpacked image rather than its transfer."""


def unpack_into(workspace: Workspace, sources: Sequence[str], ctx: TransferContext) -> Result:
    """As ``fetch_into``, but remove one layer of compression: fetch and decompress to a file in a
    folder of the job's own, then write that, checked, to the target."""
    packed = ctx.within(
        ctx.options._replace(source_format="auto", target_format="raw"),
        ctx.placement._replace(beneath=None, unpacking=True),
    )
    plain = FetchOptions(policy="user")._replace(
        **{name: getattr(ctx.options, name) for name in _LANDING}
    )
    with workspace.staging() as staging:
        (staging.path / "image").unlink(missing_ok=True)  # a killed run may have left one
        image = str(staging.path / "image")
        try:
            fetched = publish_job(sources, image, packed)
            landed = fetch_into(workspace, [image], ctx.within(plain, ctx.placement, proven=True))
        except BaseException as exc:
            from fastdl.engine.landing.base import can_continue

            staging.keep = ctx.options.resume and can_continue(exc)
            raise
    return fetched._replace(
        target=landed.target,
        target_bytes=landed.target_bytes,
        format=landed.format,
        virtual_size=landed.virtual_size,
        warnings=ctx.events.warnings,
    )
