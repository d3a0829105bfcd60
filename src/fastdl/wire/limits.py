# SPDX-License-Identifier: Apache-2.0
"""The limits of every message's fields.

``codec.decode`` enforces them; who builds a message must respect them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Text:
    """Limit of a string: at most *most* characters, without NUL, at least *least*."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    """Limit of a whole number, both ends included."""

    least: int = 0
    most: int = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Items:
    """Limit of the number of elements of a tuple or a mapping."""

    most: int


Id = Annotated[str, Text(64, 1)]
"""An identifier (a UUID in practice)."""
Name = Annotated[str, Text(255)]
Line = Annotated[str, Text(4096)]
"""A sentence, a path or a URL."""
Pem = Annotated[str, Text(128 << 10)]
"""One certificate, or a bundle."""
Count = Annotated[int, Whole()]
"""Bytes, bytes a second, a revision or a fence."""
Digests = Annotated[Mapping[Annotated[str, Text(32)], Annotated[str, Text(256)]], Items(16)]
"""Algorithm (``sha-256``) → lower-case hexadecimal digest."""
Headers = Annotated[tuple[tuple[Name, Annotated[str, Text(8192)]], ...], Items(16)]
"""Request headers, bound to the origins of the sources they came with. May hold secrets: ledgers
keep them encrypted, which is longer. In clear they are lines."""
Lines = Annotated[tuple[Line, ...], Items(64)]
