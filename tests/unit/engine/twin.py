# SPDX-License-Identifier: Apache-2.0
"""The slow plain twin of the engine: what must come out, written so that it is easy to believe.

One request a mirror, one mirror after the other, hashlib, a buffered file. It shares the
parsers of URLs, digests and metalinks with the engine and nothing of its transfer; the
tests ask both and compare bytes, digests and the class of the error.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastdl.errors import (
    FastdlError,
    HttpProtocolError,
    HttpStatusError,
    IntegrityError,
    NetError,
    PolicyError,
    SinkRefusedError,
    SizeError,
    TrustError,
)
from fastdl.model.digest import DigestSet, DigestSource, parse_checksum
from fastdl.model.url import Url
from fastdl.sources.metalink import Pieces, parse_metalink

CHUNK = 1 << 16
MAX_REDIRECTS = 8
MAX_DOCUMENT = 8 << 20
TIMEOUT_S = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True, kw_only=True)
class Wanted:
    """What the sources promise, before any byte of the image has come."""

    mirrors: list[Url] = field(default_factory=list)
    size: int | None = None
    digests: DigestSet = field(default_factory=DigestSet)
    pieces: Pieces | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came, and was proven as far as it could be."""

    source_bytes: int
    digests: dict[str, str]
    integrity: str


def fetch_reference(
    sources: str | Sequence[str],
    target: str | Path,
    *,
    checksum: str | None = None,
    cacert: str | None = None,
) -> Fetched:
    """Bring *sources* to the file *target*, which must not exist. Raises a FastdlError.

    Mirrors are tried in the order of their priority; the error of the first one is raised
    where all have failed. Afterwards *target* is complete and verified, or absent.
    """
    wanted = resolve([sources] if isinstance(sources, str) else sources, checksum, cacert)
    path = Path(target)
    if path.exists():
        raise SinkRefusedError(f"{path} exists already")
    first: FastdlError | None = None
    for url in wanted.mirrors:
        try:
            return _fetch_one(url, wanted, path, cacert)
        except FastdlError as exc:
            first = first or exc
    raise first or NetError("no mirror is left")


def resolve(sources: Sequence[str], checksum: str | None, cacert: str | None) -> Wanted:
    """Read the metalinks among *sources* and collect mirrors, size and digests."""
    out = Wanted()
    if checksum is not None:
        out.digests.add(parse_checksum(checksum), DigestSource.USER)
    urls = [Url.parse(text) for text in sources]
    for url in urls:
        if not url.is_metalink_name():
            continue
        with _opened(url, cacert) as (_, parts):
            data = b"".join(parts)[: MAX_DOCUMENT + 1]
        document = parse_metalink(data, base_url=url)
        if None not in (out.size, document.size) and out.size != document.size:
            raise SizeError("two metalinks give different sizes")
        out.size = document.size if out.size is None else out.size
        for digest in document.digests:
            out.digests.add(digest, DigestSource.METALINK)
        out.pieces = out.pieces or document.pieces
        out.mirrors += [Url.parse(mirror.url) for mirror in document.mirrors]
    out.mirrors += [url for url in urls if not url.is_metalink_name()]
    return out


def _fetch_one(url: Url, wanted: Wanted, path: Path, cacert: str | None) -> Fetched:
    part = path.with_name(f".{path.name}.reference")
    try:
        with _opened(url, cacert) as (size, parts), part.open("wb") as out:
            if None not in (size, wanted.size) and size != wanted.size:
                raise SizeError(f"{url.display()} has {size} bytes, not {wanted.size}")
            for data in parts:
                out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fetched = _verify(part, wanted)
        part.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)
    return fetched


def _verify(part: Path, wanted: Wanted) -> Fetched:
    data = part.read_bytes()
    if wanted.size is not None and len(data) != wanted.size:
        raise SizeError(f"{len(data)} bytes came, not {wanted.size}")
    if wanted.pieces is not None:
        length = wanted.pieces.length
        for index in range(wanted.pieces.count):
            digest = wanted.pieces.digest_of(index)
            piece = data[index * length : (index + 1) * length]
            if _hex(digest.algorithm, piece) != digest.hex:
                raise IntegrityError(f"piece {index} is wrong", offset=index * length)
    got = {digest.algorithm: _hex(digest.algorithm, data) for digest in wanted.digests}
    if got != wanted.digests.to_dict():
        raise IntegrityError("the whole has another digest")
    integrity = wanted.digests.integrity(wanted.pieces.algorithm if wanted.pieces else None)
    return Fetched(source_bytes=len(data), digests=got, integrity=integrity)


def _hex(algorithm: str, data: bytes) -> str:
    name = algorithm if algorithm == "md5" else algorithm.replace("-", "")
    return hashlib.new(name, data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _opened(url: Url, cacert: str | None) -> Iterator[tuple[int | None, Iterator[bytes]]]:
    """(size where it is told, parts of the body) of *url*."""
    if not url.is_http:
        try:
            with Path(url.path).open("rb") as source:
                size = os.fstat(source.fileno()).st_size
                yield size, iter(lambda: source.read(CHUNK), b"")
        except OSError as exc:
            raise NetError(f"{url.path} cannot be read: {exc.strerror}") from None
        return
    connection, answer = _get(url, cacert)
    try:
        length = answer.getheader("Content-Length")
        if length is None and not answer.chunked:
            raise HttpProtocolError("a body without length")
        if answer.getheader("Content-Encoding", "identity") != "identity":
            raise HttpProtocolError("a content coding nobody asked for")
        yield (None if length is None else int(length)), _body(answer, length)
    finally:
        connection.close()


def _get(
    url: Url, cacert: str | None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """The answer of *url*, behind at most MAX_REDIRECTS redirects."""
    for _ in range(MAX_REDIRECTS + 1):
        _, host, port = url.origin
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=cacert)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", url.target, headers={"Accept-Encoding": "identity"})
            answer = connection.getresponse()
        except ssl.SSLCertVerificationError as exc:
            raise TrustError(str(exc)) from None
        except http.client.RemoteDisconnected as exc:
            raise NetError(str(exc)) from None
        except http.client.HTTPException as exc:
            raise HttpProtocolError(f"{type(exc).__name__}: {exc}") from None
        except OSError as exc:
            raise NetError(str(exc)) from None
        if answer.status == http.HTTPStatus.OK:
            return connection, answer
        connection.close()
        if answer.status not in _REDIRECTS:
            raise HttpStatusError(f"status {answer.status}")
        there = url.join(answer.getheader("Location", ""))
        if not there.is_http or (url.scheme == "https" and there.scheme == "http"):
            raise PolicyError("a redirect that may not be followed")
        url = there
    raise PolicyError("too many redirects")


def _body(answer: http.client.HTTPResponse, length: str | None) -> Iterator[bytes]:
    have = 0
    try:
        while data := answer.read(CHUNK):
            have += len(data)
            yield data
    except http.client.IncompleteRead:
        raise NetError("the connection was cut") from None
    except http.client.HTTPException as exc:
        raise HttpProtocolError(f"{type(exc).__name__}: {exc}") from None
    except OSError as exc:
        raise NetError(str(exc)) from None
    except ValueError as exc:  # http.client says so for a chunk size that is no number
        raise HttpProtocolError(str(exc)) from None
    if length is not None and have < int(length):
        raise NetError(f"the body ended after {have} of {length} bytes")
