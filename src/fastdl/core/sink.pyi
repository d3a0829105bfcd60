# SPDX-License-Identifier: Apache-2.0
from typing import final

from typing_extensions import Buffer

@final
class Sink:
    """Where bytes land: offsets and lengths in bytes, *size* None while unknown.

    The descriptors stay the caller's, open until ``close``. *fd* below 0: bytes go nowhere.
    """

    def __init__(
        self,
        fd: int,
        buffered_fd: int,
        *,
        align: int,
        size: int | None,
        hold: int,
        blank: bool,
    ) -> None: ...
    def begin(self) -> None: ...
    def pwrite(self, data: Buffer, offset: int) -> None: ...
    def zero(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...
    def release(self) -> None: ...
    def held(self, offset: int, length: int) -> bytes | None:
        """*length* bytes at *offset*, where they are held back until ``release``."""

    def keep_log(self) -> None:
        """Remember what is written and zeroed from now on, for ``drain_log``."""

    def drain_log(self) -> list[tuple[int, int, int | None]]:
        """[(offset, length, XXH3)] since the last call; None instead of XXH3 for zeros."""

    def stats(self) -> tuple[int, int, int]:
        """Bytes written, bytes zeroed by a command, busy nanoseconds."""

    def close(self) -> None:
        """Free the C sink; a job that still writes through it is stopped first. Idempotent."""
