# SPDX-License-Identifier: Apache-2.0
"""Writing a metalink (RFC 5854) for one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from xml.sax.saxutils import escape


def metalink(
    name: str,
    urls: Sequence[str],
    *,
    size: int | None = None,
    sha256: str | None = None,
    pieces: tuple[int, Sequence[str]] | None = None,
    ranked: bool = True,
) -> str:
    """Return the document; *urls*: in order of preference, or all alike where not *ranked*;
    *pieces*: (length, SHA-256 of each)."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n']
    parts.append(f'<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="{escape(name)}">')
    if size is not None:
        parts.append(f"<size>{size}</size>")
    if sha256 is not None:
        parts.append(f'<hash type="sha-256">{sha256}</hash>')
    if pieces is not None:
        length, digests = pieces
        parts.append(f'<pieces type="sha-256" length="{length}">')
        parts += [f"<hash>{digest}</hash>" for digest in digests]
        parts.append("</pieces>")
    for n, url in enumerate(urls, 1):
        parts.append(f'<url priority="{n if ranked else 1}">{escape(url)}</url>')
    parts.append("</file></metalink>\n")
    return "".join(parts)


def metalink_of(
    content: bytes,
    urls: Sequence[str],
    *,
    name: str = "image",
    piece: int | None = None,
    ranked: bool = True,
) -> str:
    """Return the document of *content*, with its size and digest, and with those of its pieces
    of *piece* bytes where that is given."""
    found = None
    if piece is not None:
        starts = range(0, len(content), piece)
        found = piece, [_sha256(content[at : at + piece]) for at in starts]
    return metalink(
        name, urls, size=len(content), sha256=_sha256(content), pieces=found, ranked=ranked
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
