# SPDX-License-Identifier: Apache-2.0
"""Writes what a transfer has learned of its source as a metalink: ``--write-metalink``.

Digest and pieces are made while the source arrives, in one pass; only what lay at the target
already is read for it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from fastdl.errors import FastdlError, SinkRefusedError, UsageError
from fastdl.fs import replace_file, why
from fastdl.model.url import METALINK_SUFFIXES, Url
from fastdl.sinks.base import sink_error
from fastdl.sources.metalink_made import (
    Described,
    check_name,
    describe_file,
    document_of,
    pieces_of,
    public_urls,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastdl.engine.context import TransferContext
    from fastdl.engine.proof import Outcome
    from fastdl.engine.result import Result
    from fastdl.engine.source.facts import SourceFacts


_HEAD = 4096
"""Where a metalink's root element begins; a comment may stand before it."""


def described(facts: SourceFacts, outcome: Outcome) -> Described:
    """What was transferred, with the mirrors that were not disqualified, the busiest first."""
    left = [
        (mirror.bytes, url)
        for url, mirror in zip(facts.urls, facts.mirrors, strict=True)
        if mirror.state != "disqualified"
    ]
    left.sort(key=lambda pair: -pair[0])
    return Described(
        name=facts.name or _name([str(url.path) for _, url in left]),
        size=outcome.total,
        sha256=outcome.digests["sha-256"].hex(),
        pieces=facts.pieces or pieces_of(outcome.listed, outcome.list_length),
        urls=public_urls(url for _, url in left),
    )


def write_metalink(path: str, result: Result, sources: Sequence[str], ctx: TransferContext) -> None:
    """Write the metalink of the finished job to *path*; warns where that fails.

    The target is published: nothing makes a failure of that any more.
    """
    try:
        _write_metalink(path, result, sources, ctx)
    except FastdlError as exc:
        ctx.events.warn(f"{path}: not written: {exc.message}")
    except (OSError, MemoryError) as exc:
        ctx.events.warn(f"{path}: not written: {why(exc)}")


def _write_metalink(
    path: str, result: Result, sources: Sequence[str], ctx: TransferContext
) -> None:
    found = ctx.events.described
    if found is None:
        if result.landing != "same" or not os.path.isfile(result.target):  # noqa: PTH113
            ctx.events.warn(f"{path}: not written: the target was there already, and is no file")
            return
        urls = public_urls(Url.parse(source) for source in sources if _is_file(source))
        found = describe_file(result.target, urls, size=result.source_bytes, check=ctx.cancel.check)
    elif result.landing == "same" and os.path.isfile(result.target):  # noqa: PTH113
        found = found._replace(name=os.path.basename(result.target))  # noqa: PTH119
    try:
        check_name(found.name)
    except UsageError:
        found = found._replace(name="image")
    if not found.urls:
        ctx.events.warn(
            f"{path}: no mirror in it: add <url>s before others use it (paths, and URLs with "
            "passwords or queries, are not handed on)"
        )
    write_document(path, [found])


def check_place(path: str, *, overwrite: bool = False) -> None:
    """Refuse a *path* where no document can be written, or something else lies that it would
    destroy; a metalink of an earlier run may be replaced. UsageError or a sink's error."""
    folder, name = os.path.split(path)
    if not name or name in {"-", ".", ".."} or "\0" in path:
        raise UsageError(f"a metalink needs a file's name, which {path!a} is not")
    try:
        if not os.access(folder or ".", os.W_OK | os.X_OK):
            os.stat(folder or ".")  # noqa: PTH116 - it says what is wrong
            raise SinkRefusedError(f"writing {path}: its folder cannot be written to", phase="land")
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise SinkRefusedError(f"writing {path}: it is no regular file", phase="land")
        if overwrite or not found.st_size:
            return
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            head = os.read(fd, _HEAD)
        finally:
            os.close(fd)
    except FileNotFoundError as exc:
        if folder and not os.path.isdir(folder):  # noqa: PTH112
            raise sink_error(exc, f"writing {path}") from None
        return
    except OSError as exc:
        raise sink_error(exc, f"writing {path}") from None
    if b"<metalink" not in head:
        raise SinkRefusedError(
            f"{path} already exists and is no metalink: remove it, or choose another name",
            phase="land",
        )


def check_apart(path: str, target: str) -> None:
    """Refuse a *path* that is the file *target*, also by another name. UsageError."""
    (folder, name), (other, its) = os.path.split(path), os.path.split(target)
    same = name == its and os.path.samestat(os.stat(folder or "."), os.stat(other or "."))  # noqa: PTH116
    with contextlib.suppress(FileNotFoundError):
        same = same or os.path.samestat(os.stat(path), os.stat(target))  # noqa: PTH116
    if same:
        raise UsageError(f"{path}: a metalink cannot be written over the file that it describes")


def write_document(path: str, files: Iterable[Described]) -> None:
    """Replace the file at *path* by the metalink of *files*, readable for all. A sink's errors."""
    try:
        replace_file(path, document_of(files), prepare=lambda fd: os.fchmod(fd, 0o644))
    except OSError as exc:
        raise sink_error(exc, f"writing {path}") from None


def _is_file(source: str) -> bool:
    """Whether *source* names the bytes themselves, and not a metalink."""
    try:
        url = Url.parse(source)
    except FastdlError:
        return False
    return url.is_http and not url.path.lower().endswith(METALINK_SUFFIXES)


def _name(paths: Sequence[str]) -> str:
    return next((name for path in paths if (name := path.rpartition("/")[2])), "image")
