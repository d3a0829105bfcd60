# SPDX-License-Identifier: Apache-2.0
"""The input of a transfer: ``struct fdl_job_config`` as a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.named_tuple import NamedTuple

if TYPE_CHECKING:
    from fastdl.core.job import Pace
    from fastdl.core.land import Lander
    from fastdl.core.net import Mirror, Net, Stream
    from fastdl.core.sink import Sink


class JobConfig(NamedTuple):
    """Sizes and offsets in bytes. The transfer keeps the objects in it alive.

    A NamedTuple, because start-up time counts: dataclasses take 10 ms to import.
    """

    net: Net
    mirrors: Sequence[Mirror]
    sink: Sink
    total: int | None
    """Of the source; None while unknown."""
    block: int
    window: int
    """Of all blocks together."""
    max_connections: int
    retry: int
    """Failures in a row after which a mirror is given up."""
    retry_time: float
    """Or seconds since the first of them; 0: no limit."""
    retry_delay: float
    """Seconds between two of them; 0: ever longer."""
    provable: bool
    """A digest or pieces prove the bytes: mirrors may be mixed."""
    first_connections: int = 4
    """To one mirror, before goodput has shown that more of them pay."""
    pace: Pace | None = None
    """The limit of bytes a second, which other transfers may share."""
    record: bool = False
    """List blocks that were written, for ``Job.drain``."""
    log_requests: bool = False
    """Keep notes of the requests for ``Job.requests``."""
    detect_zeros: bool = False
    hold: int = 0
    """What the recorded sink holds back at either end: such bytes are not recorded."""
    algorithms: Sequence[str] = ()
    """Digests of the source to compute, by the names of the IANA registry."""
    pieces: tuple[str, int, bytes] | None = None
    """Algorithm, piece length, and all digests in a row."""
    list_pieces: int = 0
    """List the SHA-256 of pieces of so many bytes beside the whole's, which is among *algorithms*.
    Not where *pieces* are given. 0: no list."""
    known: Sequence[tuple[int, bytes, int]] = ()
    """(offset, bytes, index of the mirror that sent them or -1), ascending."""
    local: Sequence[tuple[int, int]] = ()
    """(offset, XXH3) of blocks that *local_fd* holds from an earlier run."""
    local_fd: int = -1
    skip: Sequence[int] = ()
    """Numbers of blocks that nobody needs, ascending."""
    first: Stream | None = None
    """An open response to continue with; the job takes it over."""
    lander: Lander | None = None
    """None: blocks land at their own offsets."""
    keeps: bool = False
    """With a lander: blocks are also kept, once ``Job.keep`` has said where."""
