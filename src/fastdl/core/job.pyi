# SPDX-License-Identifier: Apache-2.0
from typing import Any, final

from fastdl.core.config import JobConfig
from fastdl.core.sink import Sink

def block_for(piece_length: int | None, wanted: int) -> int:
    """The largest block size up to *wanted* that fits a piece length."""

def sha256_by(wanted: str = "") -> tuple[str, str]:
    """(the SHA-256 implementation on this machine: a kernel's name or ``openssl``; why).

    *wanted*: a kernel's name or ``openssl``; empty for the best. Why: ours; or, with openssl:
    ``no kernel`` (for this processor), ``fips`` (OpenSSL is in FIPS mode), ``asked``, ``differs``
    (the kernel's results differ from OpenSSL's), ``unknown`` (*wanted* is not usable here).
    """

def sha256_lanes(wanted: str = "") -> int:
    """How many SHA-256 digests the implementation that ``sha256_by`` names makes at a time."""

@final
class Pace:
    """A limit of *rate* bytes/s for all transfers that share it; *parent*'s counts as well.

    ValueError: the rate is 0.
    """

    def __new__(cls, rate: int, parent: Pace | None = None) -> Pace: ...

@final
class Job:
    """A running transfer; it starts immediately. ValueError for an unknown digest."""

    def __new__(cls, config: JobConfig) -> Job: ...
    def wait(self, timeout_ms: int, records: int = 0) -> bool:
        """True when the job has ended; False also where *records* blocks can be drained, or where
        it wants a spool (``status``)."""

    def status(self) -> dict[str, Any]:
        """The fields of ``struct fdl_job_status``; times in nanoseconds, summed over threads."""

    def keep(self, spool: Sink | None) -> None:
        """Keep blocks from now on also in *spool*, at their own offsets, and record them; None:
        keep nothing. At most once, where ``JobConfig.keeps``."""

    def drain(self) -> list[tuple[int, int, int]]:
        """[(offset, length, xxh3)] of blocks written since the last call; not durable yet."""

    def settle(self, n: int) -> None:
        """*n* drained records are durable now."""

    def requests(self) -> tuple[list[dict[str, Any]], int]:
        """What happened to requests since the last call, as ``JobConfig.log_requests`` asked for,
        and how many notes more there was no room for.

        Each has ``connection`` (from 1), ``mirror`` (its index), ``first`` and ``last`` byte (None:
        of no range; None: to the end), and one of: ``error`` (why it was left, else None);
        ``status`` of its response (else 0) with ``seconds`` (0.0: it had been sent ahead); neither:
        it was sent, ``fresh`` as the first of its connection, to ``where`` a redirect led (the URL
        without its query; empty: to the mirror's own).
        """

    def cancel(self) -> None: ...
    def halt(self) -> None:
        """Cancel and join: nothing is read or written afterwards. Idempotent."""

    def finish(self) -> tuple[int, dict[str, bytes]]:
        """(source size, {algorithm: digest}); raises the job's error."""

    def piece_list(self) -> bytes:
        """The SHA-256 of the pieces, one after the other, as ``JobConfig.list_pieces`` asked for;
        after ``finish``."""
