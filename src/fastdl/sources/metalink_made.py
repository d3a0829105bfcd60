# SPDX-License-Identifier: Apache-2.0
"""Making a metalink (RFC 5854): sizes, digests, pieces and mirrors.

The document is canonical XML (no choice is left to the writer), so that the same files and URLs
give the same bytes, whoever makes it, and a signature stays good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from fastdl.errors import MetalinkError, SinkIOError, UsageError
from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple
from fastdl.sources.metalink import MAX_MIRRORS, MAX_PIECE, MIN_PIECE, Pieces, check_file_name

MAX_PIECES = 1 << 16
"""Pieces are as large as this asks for: 2 MiB of digests for 64 GiB in pieces of 1 MiB."""
_PIECE = 1 << 20
_BLOCK = 1 << 20


class Described(NamedTuple):
    """One file of a metalink. *sha256* in hex; *urls* in order of preference."""

    name: str
    size: int
    sha256: str
    pieces: Pieces | None
    urls: tuple[str, ...]


def piece_length_for(size: int | None) -> int:
    """1 MiB, or the power of two above it that gives at most ``MAX_PIECES``; *size* in bytes."""
    length = _PIECE
    while size is not None and size > length * MAX_PIECES and length < MAX_PIECE:
        length *= 2
    return length


def pieces_of(digests: bytes, length: int) -> Pieces | None:
    """The list of SHA-256 *digests*, one after the other; None for a file without a byte."""
    return Pieces(algorithm="sha-256", length=length, hashes=digests) if digests else None


def describe_file(
    path: str,
    urls: Sequence[str],
    *,
    name: str | None = None,
    size: int | None = None,
    piece_length: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Described:
    """Read the file at *path* once, its first *size* bytes (None: all), and describe it.

    *check* is called for each block read, and may raise. UsageError: no such file, none that is
    regular, or a name, URL or piece length that a metalink cannot hold. SinkIOError: it cannot be
    read, or changed meanwhile.
    """
    from fastdl.core.digests import Digests

    name = check_name(os.path.basename(path) if name is None else name)  # noqa: PTH119
    check_urls(urls)
    if size is None and os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise UsageError(f"{path} is no file")
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            found = os.fstat(file.fileno())
            size = found.st_size if size is None else size
            length = piece_length or piece_length_for(size)
            if not MIN_PIECE <= length <= MAX_PIECE:
                raise UsageError(f"pieces have {MIN_PIECE} bytes to {MAX_PIECE}")
            digests = Digests("sha-256", length)
            view, left = memoryview(bytearray(_BLOCK)), size
            while left and (n := file.readinto(view[: min(left, _BLOCK)])):
                check()
                digests.update(view[:n])
                left -= n
            after = os.fstat(file.fileno())
    except OSError as exc:
        kind = UsageError if isinstance(exc, FileNotFoundError | IsADirectoryError) else SinkIOError
        raise kind(f"{path} cannot be read: {exc.strerror}") from None
    if left or (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
        raise SinkIOError(f"{path} changed while it was read")
    whole, pieces = digests.finish()
    return Described(name, size, whole.hex(), pieces_of(pieces, length), tuple(urls))


def check_name(given: str) -> str:
    """Return *given*; UsageError for one that no metalink can give a file."""
    name = given
    try:
        check_file_name(name)
    except MetalinkError:
        name = ""
    if not name or not name.isprintable():
        raise UsageError(f"a metalink cannot give a file that name: {given[:80]!a}")
    return name


def check_urls(urls: Sequence[str]) -> None:
    """UsageError for URLs that no metalink can hold, or should not: those with a password."""
    if not urls or len(urls) > MAX_MIRRORS:
        raise UsageError(f"a metalink names 1 to {MAX_MIRRORS} mirrors of a file")
    for text in urls:
        url = Url.parse(text)
        if not url.is_http:
            raise UsageError("a mirror in a metalink is an http or https URL")
        if url.username is not None:
            raise UsageError("a metalink is for everybody: its URLs hold no user or password")


def public_urls(urls: Iterable[Url]) -> tuple[str, ...]:
    """Those of *urls* that may be handed on, as text: a query may be a signature, and is none."""
    return tuple(
        url.request_text()
        for url in urls
        if url.is_http and url.username is None and url.query is None
    )[:MAX_MIRRORS]


def document_of(files: Iterable[Described]) -> bytes:
    """The metalink of *files*, in the form that Canonical XML 1.1 gives it, without comments."""
    out = ['<metalink xmlns="urn:ietf:params:xml:ns:metalink">\n']
    for file in files:
        out.append(f'  <file name="{_attribute(file.name)}">\n')
        out.append(f"    <size>{file.size}</size>\n")
        out.append(f'    <hash type="sha-256">{file.sha256}</hash>\n')
        if (pieces := file.pieces) is not None:
            out.append(f'    <pieces length="{pieces.length}" type="{pieces.algorithm}">\n')
            out.extend(
                f"      <hash>{pieces.digest_of(index).hex}</hash>\n"
                for index in range(pieces.count)
            )
            out.append("    </pieces>\n")
        out.extend(
            f'    <url priority="{priority}">{_text(url)}</url>\n'
            for priority, url in enumerate(file.urls, 1)
        )
        out.append("  </file>\n")
    out.append("</metalink>")
    return "".join(out).encode()


def _text(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
    )


def _attribute(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return escaped.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")
