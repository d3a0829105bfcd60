# SPDX-License-Identifier: Apache-2.0
from typing import final

from fastdl.core.sink import Sink

@final
class Export:
    """One export of an NBD server; offsets and lengths in bytes. Safe from several threads.

    *limit*: seconds that one request may take before its connection is given up.
    Raises UsageError, SinkIOError, SinkRefusedError.
    """

    def __init__(self, uri: str, *, max_connections: int, limit: float) -> None: ...
    def sink(self, *, size: int | None, hold: int) -> Sink:
        """Where an image of *size* bytes (None: unknown) lands in the export."""

    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def connections(self) -> int: ...
    @property
    def min_block(self) -> int:
        """Bytes of the smallest unit that the server can write."""

    def pread(self, size: int, offset: int) -> bytes: ...
    def zero(self, offset: int, length: int) -> None: ...
    def flush(self) -> None: ...
    def hurry(self) -> None:
        """From any thread: requests under way and later ones get two seconds each."""

    def descriptors(self) -> tuple[int, ...]:
        """The sockets of the connections."""

    def drop(self) -> None:
        """Like ``close``, but sends nothing to the server: a fork uses the same connections."""

    def close(self) -> None:
        """Close the sinks made from it first."""
