# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import Any, final

from fastdl.core.lander import Lander
from fastdl.core.net import Mirror, Net, Stream
from fastdl.core.sink import Sink

NAMES: tuple[str, ...]

def block_for(piece_length: int | None, wanted: int) -> int:
    """The largest block size up to *wanted* that fits a piece length."""

@final
class Job:
    """A running transfer. Sizes and offsets in bytes; the digests' names are in NAMES.

    *known*  (offset, bytes, index of the mirror that gave them or -1)
    *local*  (offset, XXH3) of blocks that *local_fd* holds from an earlier run
    *pieces* (algorithm, piece length, all digests in a row)
    *first*  an open answer to go on with; the job takes it over
    """

    def __new__(
        cls,
        *,
        net: Net,
        mirrors: Sequence[Mirror],
        sink: Sink,
        total: int | None,
        block: int,
        window: int,
        max_connections: int,
        limit_rate: int,
        retry: int,
        provable: bool,
        record: bool,
        detect_zeros: bool,
        hold: int,
        algorithms: Sequence[str] = (),
        pieces: tuple[str, int, bytes] | None = None,
        known: Sequence[tuple[int, bytes, int]] = (),
        local: Sequence[tuple[int, int]] = (),
        local_fd: int = -1,
        skip: Sequence[int] = (),
        first: Stream | None = None,
        lander: Lander | None = None,
    ) -> Job: ...
    def wait(self, timeout_ms: int, records: int = 0) -> bool:
        """True when the job has ended; False also where *records* blocks can be drained."""

    def status(self) -> dict[str, Any]:
        """The fields of ``struct fdl_job_status``; times in nanoseconds, summed over threads."""

    def drain(self) -> list[tuple[int, int, int]]:
        """[(offset, length, xxh3)] of blocks written since the last call; not durable yet."""

    def settle(self, n: int) -> None:
        """*n* drained records are durable now."""

    def cancel(self) -> None: ...
    def halt(self) -> None:
        """Cancel and join: afterwards nothing is read or written any more. Idempotent."""

    def finish(self) -> tuple[int, dict[str, bytes]]:
        """(source size, {algorithm: digest}); raises the job's error."""
