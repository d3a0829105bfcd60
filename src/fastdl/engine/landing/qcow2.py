# SPDX-License-Identifier: Apache-2.0
"""qcow2 onto raw storage while it arrives: tables first, then data in file order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastdl.core.image import Qcow2
from fastdl.core.lander import Qcow2Lander as CoreLander
from fastdl.core.sink import Sink as CoreSink
from fastdl.engine.landing.base import Lander, Landing, decode_threads
from fastdl.engine.landing.head import qcow2_header
from fastdl.engine.landing.tables import Known, read_tables
from fastdl.engine.options import FetchOptions
from fastdl.engine.proof import Outcome
from fastdl.errors import FormatError, Reason
from fastdl.model.image import Format
from fastdl.sinks.base import Sink

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts
    from fastdl.engine.source.first_response import FirstResponse


class Qcow2Lander(Lander):
    """The guest's disk is written; the source's bytes are hashed on the way."""

    kind = "qcow2-to-raw"
    sparse = True
    decodes = True

    def __init__(self, options: FetchOptions, image: Qcow2, known: list[Known]) -> None:
        size = image.virtual_size
        super().__init__(options, format=str(Format.QCOW2), target_size=size, virtual_size=size)
        self.image = image
        self.known = known
        info = image.info()
        self.data_bytes: int = info["data_bytes"] + info["compressed_bytes"]

    def check_room(self, sink: Sink) -> None:
        """A device needs the virtual size, a sparse file only the data."""
        assert self.virtual_size is not None
        sink.check_size(self.virtual_size if sink.capacity is not None else self.data_bytes)

    def decoding(
        self, facts: SourceFacts, sink: Sink, core_sink: CoreSink, block: int
    ) -> dict[str, Any]:
        """The image's map, the data read for it, and the blocks not needed."""
        # Before the lander, which takes ownership of the map.
        whole = facts.provable or self.options.write_metalink is not None
        skip = [] if whole else unneeded_blocks(self.image, facts.size, block)
        lander = CoreLander(
            self.image,
            core_sink,
            threads=decode_threads(),
            detect_zeros=self.detects_zeros(sink),
        )
        return {"lander": lander, "known": self.known, "skip": skip}

    def final_size(self, outcome: Outcome) -> int:
        """The virtual size."""
        assert self.virtual_size is not None
        return self.virtual_size


def unneeded_blocks(image: Qcow2, size: int | None, block: int) -> list[int]:
    """Blocks of the source that no guest byte needs; not fetched without a digest."""
    if size is None:
        return []
    needed: set[int] = set()
    for offset, length in image.extents():
        needed.update(range(offset // block, (offset + length - 1) // block + 1))
    return [number for number in range((size + block - 1) // block) if number not in needed]


def plan_qcow2(
    facts: SourceFacts,
    response: FirstResponse,
    ctx: TransferContext,
    staged: Callable[[str], Landing],
) -> Landing:
    """Check header and tables; on return the location of every byte is known.

    Raises the image's refusal, or what ``read_tables`` raised.
    """
    image = qcow2_header(facts, response, ctx.options)
    try:
        known = read_tables(facts, response, image, ctx)
    except FormatError as exc:
        if exc.reason is not Reason.NEEDS_STAGING:
            raise
        return staged(exc.message)
    return Qcow2Lander(ctx.options, image, known)
