# SPDX-License-Identifier: Apache-2.0
"""``fastdl metalink``: describe files, so that others bring them verified, in pieces."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastdl.cli import streams
from fastdl.errors import UsageError
from fastdl.model.units import parse_size

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.sources.metalink_made import Described

_DESCRIPTION = """\
Make a metalink (RFC 5854) of files on this machine: size, SHA-256 of the whole and of pieces, and
the URLs where the files are published. The same files and URLs give the same bytes: sign them as
they are."""

_EPILOG = """\
examples:
  # one image on two mirrors; the first one is preferred
  fastdl metalink create debian-12.qcow2 -o debian-12.qcow2.meta4 \\
      --url https://a.example/debian-12.qcow2 --url https://b.example/debian-12.qcow2
  # a folder with all that is in it; the names are added to the URL
  fastdl metalink create images/ --url https://a.example/images/ -o images.meta4
  # names from another program
  find . -name '*.qcow2' | fastdl metalink create - --url https://a.example/images/ > all.meta4
  # signed, and used
  gpg --armor --detach-sign images.meta4
  fastdl get https://a.example/images.meta4 -d /var/lib/libvirt/images"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "metalink",
        help="describe files by size, digests, pieces and mirrors",
        usage="fastdl metalink create FILE... --url URL... [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("create",), help="create: write a new metalink")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a file, or a folder for all files in it; -: names from standard input, one a line",
    )
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        metavar="URL",
        help="where it is published, the preferred one first; one that ends with / is a folder "
        "that has the files under their names; may be repeated",
    )
    parser.add_argument(
        "--piece-length",
        metavar="SIZE",
        help="16K to 1G; default 1M, more for files above 64 GiB",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="a new file, or a metalink to replace; default, and -: standard output",
    )


def run(args: argparse.Namespace) -> int:
    """Describe the files; the document goes to stdout, or replaces the output file whole."""
    from fastdl.cli.cancellable import run_cancellable
    from fastdl.engine.described import check_apart, check_place, write_document
    from fastdl.sources.metalink_made import document_of

    length = None if args.piece_length is None else parse_size(args.piece_length)
    files = list(_named(args.files))
    if len(files) > 1 and not all(url.endswith("/") for url in args.url):
        raise UsageError("several files need folders as --url: URLs that end with /")
    names = [name for _, name in files]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two of the files are called {twice[:80]!a}")
    output = None if args.output == "-" else args.output
    if output is not None:
        check_place(output)
        for path, _ in files:
            if os.path.exists(path):  # noqa: PTH110
                check_apart(output, path)
    made = run_cancellable(lambda cancel: _described(files, args.url, length, cancel))
    if output is None:
        streams.hand_on(document_of(made))
    else:
        write_document(output, made)
    return 0


def _described(
    files: Sequence[tuple[str, str]], urls: Sequence[str], length: int | None, cancel: Cancel
) -> list[Described]:
    """A description of each (path, name), as many at a time as there are processors."""
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import quote

    from fastdl.sources.metalink_made import describe_file

    def one(file: tuple[str, str]) -> Described:
        path, name = file
        where = [url + quote(name) if url.endswith("/") else url for url in urls]
        return describe_file(path, where, name=name, piece_length=length, check=cancel.check)

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        try:
            return list(pool.map(one, files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _named(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(path, name in the document) of each file that *words* mean, folders' in their order."""
    if words == ["-"]:
        words = [line for line in sys.stdin.read().splitlines() if line]
        if not words:
            raise UsageError("no names came on standard input")
    for word in words:
        if not os.path.isdir(word):  # noqa: PTH112
            yield word, os.path.basename(word)  # noqa: PTH119
            continue
        found = sorted(_below(word))
        if not found:
            raise UsageError(f"there is no file in {word}")
        for path in found:
            yield path, os.path.relpath(path, word)


def _below(folder: str) -> Iterator[str]:
    """Every regular file below *folder* whose name and folders are not hidden."""
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(at, name)  # noqa: PTH118
            if not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                yield path
