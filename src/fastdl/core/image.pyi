# SPDX-License-Identifier: Apache-2.0
from typing import Any

class NeedMore(Exception):
    """The header is longer than the bytes given; ``length`` bytes are needed."""

    length: int
    def __init__(self, length: int) -> None: ...

class Qcow2:
    """One qcow2 image being checked: the header first, then the tables that it requests.

    Raises FormatError, UnsafeImageError or LimitError if the image is refused, NeedMore if *head*
    is too short. *file_size* may be None while it is not known.
    """

    def __init__(
        self,
        head: bytes,
        file_size: int | None,
        *,
        max_virtual_size: int | None = None,
        max_map_bytes: int | None = None,
        allow_snapshots: bool = False,
    ) -> None: ...
    def need(self, start: int = 0) -> tuple[int, int] | None:
        """The first (offset, length) of wanted metadata at or after *start*."""

    def feed(self, offset: int, data: bytes) -> None:
        """Take the wanted parts from *data*, the file's bytes at *offset*."""

    @property
    def ready(self) -> bool: ...
    @property
    def virtual_size(self) -> int: ...
    def info(self) -> dict[str, Any]: ...
    def plain(self) -> list[tuple[int, int, int]]:
        """(host, guest, length) of plain runs, by host offset."""

    def compressed(self) -> list[tuple[int, int, int, int]]:
        """(host, host length, guest, length) of compressed clusters, by host offset."""

    def zeros(self) -> list[tuple[int, int]]:
        """(guest, length) of what reads as zeros."""

    def extents(self) -> list[tuple[int, int]]:
        """(offset, length) of the file's ranges that guest bytes need."""

class Inflate:
    """One streaming decoder: kind is gz, bz2, xz, zst or zip."""

    def __init__(
        self,
        kind: str,
        *,
        max_output: int | None = None,
        ratio_after: int | None = None,
        max_ratio: int | None = None,
        skip_zeros: bool = False,
    ) -> None:
        """*max_ratio* bounds output : input from *ratio_after* bytes of output on; with
        *skip_zeros* without what is all zeros."""

    def feed(self, data: bytes, limit: int) -> tuple[int, bytes]:
        """Bytes consumed, and up to *limit* decoded bytes."""

    def finish(self) -> None:
        """FormatError unless the stream was complete."""

    @property
    def trailing(self) -> int:
        """Bytes after the last gz member or bz2 stream that were ignored."""
