# SPDX-License-Identifier: Apache-2.0
"""Where do publishers put an image's checksum list, and where a list's signature?"""

from __future__ import annotations

from collections.abc import Iterable

from fastdl.model.url import Url

_FOLDER_LISTS = ("SHA256SUMS", "SHA512SUMS", "CHECKSUM", "sha256sum.txt", "sha512sum.txt")
_FILE_SUFFIXES = (
    ".sha256", ".sha512", ".SHA256SUM", ".SHA512SUM", ".sha256sum", ".sha512sum", ".CHECKSUM",
)  # fmt: skip


def lists_beside(url: Url) -> tuple[Url, ...]:
    """The lists that may name the image at *url*, in the order in which they are tried.

    Lists of weak algorithms do not count: they stop no attacker, and nobody requested them.
    """
    folder, _, name = url.path.rpartition("/")
    if not name:
        return ()
    prefix = f"{folder}/" if folder or url.path.startswith("/") else ""
    paths = [prefix + each for each in _FOLDER_LISTS]
    paths[2:2] = [url.path + suffix for suffix in _FILE_SUFFIXES]
    return tuple(_at(url, path) for path in paths)


def signatures_beside(url: Url, suffixes: Iterable[str]) -> tuple[Url, ...]:
    """The detached signatures that the file at *url* may have."""
    return tuple(_at(url, url.path + suffix) for suffix in suffixes)


def path_seen_from(listed_in: Url, url: Url) -> str | None:
    """The path of *url* as a list in *listed_in* would write it; None if it cannot."""
    if listed_in.origin != url.origin:
        return None
    folder = listed_in.path.rpartition("/")[0] + "/"
    name = url.last_segment()
    if name is None or not url.path.startswith(folder):
        return None
    middle = url.path[len(folder) :].rpartition("/")[0]
    return f"{middle}/{name}" if middle else name


def _at(url: Url, path: str) -> Url:
    """*path* at the origin of *url*, without the query, whose signature is the image's."""
    return url._replace(path=path, query=None)
