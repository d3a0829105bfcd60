# SPDX-License-Identifier: Apache-2.0
"""fuzz_metalink.py - invariant: a document is refused with its own error class, or yields only
mirrors with a usable scheme, a file name that leads nowhere else, and pieces that cover the
size."""

from __future__ import annotations

from fastdl.errors import FastdlError, LimitError, MetalinkError, PolicyError, UsageError
from fastdl.model.url import Url
from fastdl.sources.metalink import parse_metalink

BASE = "https://mirror.example/images/list.meta4"


def one_input(data: bytes) -> None:
    """Read *data* as a local metalink, and as one from a server."""
    for base in (None, BASE):
        try:
            found = parse_metalink(data, base_url=base)
        except (MetalinkError, LimitError, PolicyError, UsageError):
            continue
        except FastdlError as exc:
            raise AssertionError(f"an error of another class: {exc!r}") from exc
        assert found.mirrors
        assert not {"", ".", ".."}.intersection(found.name.split("/"))
        assert not set(found.name) & {"\\", "\0"}
        assert found.size is None or found.size >= 0
        for mirror in found.mirrors:
            assert Url.parse_sent(mirror.url).scheme in {"http", "https", "nfs", "file"}
            assert base is None or not mirror.url.startswith("file:")
        if found.pieces is not None and found.size is not None:
            length, count = found.pieces.length, found.pieces.count
            assert (count - 1) * length < found.size <= count * length
