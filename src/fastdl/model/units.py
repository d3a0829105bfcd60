# SPDX-License-Identifier: Apache-2.0
"""Parsing and formatting sizes, rates and times.

Suffixes K, M, G, T are powers of 1024, as in curl and aria2; ``KiB`` and ``KB`` mean
the same. A fraction is welcome where it names a whole number of bytes (``1.5G``) and
refused where it does not (``0.3K``): nobody should get a size they did not write.
"""

from __future__ import annotations

import re

from fastdl.errors import UsageError

MAX_SIZE = 2**63 - 1
"""The largest size a kernel offset can hold, in bytes."""

MAX_SECONDS = 10 * 365 * 86400
"""Ten years: beyond it, a time is a typing mistake."""

_MULTIPLE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Compiled where they are used: most commands read no size.
_SIZE = r"(?i)([0-9]{1,19})(?:\.([0-9]{1,19}))? ?([KMGT]?)(I?B)?"
_SECONDS = r"(?i)[0-9]{1,10}(?:\.[0-9]{1,9})? ?s?"
_SHOWN_MAX = 40


def _shown(text: str) -> str:
    """*text* as it may stand in a message: quoted, escaped and short."""
    return ascii(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")


def parse_size(text: str) -> int:
    """Return the bytes that *text* (``512``, ``64M``, ``1.5GiB``) means; UsageError otherwise."""
    match = re.fullmatch(_SIZE, text.strip(" "))
    if match is None or ((match[4] or "").upper() == "IB" and not match[3]):
        raise UsageError(
            f"{_shown(text)} is not a size: write bytes, or a number with K, M, G or T, like 64M"
        )
    whole, fraction, suffix = match[1], match[2] or "", match[3].upper()
    scaled = int(whole + fraction) * _MULTIPLE[suffix]
    denominator: int = 10 ** len(fraction)
    size, rest = divmod(scaled, denominator)
    if rest:
        raise UsageError(
            f"{_shown(text)} is not a whole number of bytes: write it in a smaller unit"
        )
    if size > MAX_SIZE:
        raise UsageError(f"{_shown(text)} is larger than any file ({MAX_SIZE} bytes)")
    return size


def parse_rate(text: str) -> int:
    """Return bytes per second, at least 1, for ``10M`` or ``10M/s``; UsageError otherwise."""
    rate = parse_size(re.sub(r" ?(?:/s|ps)$", "", text.strip(" "), flags=re.IGNORECASE))
    if rate == 0:
        raise UsageError("a rate of 0 transfers nothing: omit the option for no limit")
    return rate


def parse_seconds(text: str) -> float:
    """Return the seconds that *text* (``30``, ``0.5``, ``30s``) means; UsageError otherwise."""
    stripped = text.strip(" ")
    if re.fullmatch(_SECONDS, stripped) is None:
        raise UsageError(f"{_shown(text)} is not a time: write seconds, like 30 or 0.5")
    seconds = float(stripped.rstrip("sS "))
    if seconds > MAX_SECONDS:
        raise UsageError(f"{_shown(text)} is longer than ten years: times are in seconds")
    return seconds


def format_size(size: float) -> str:
    """Return *size* bytes for people: ``512 B``, ``1.5 GiB``."""
    scaled = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        # 1023.95 would be rounded to "1024.0": that is the next unit's 1.0.
        if scaled < (1024 if unit == "B" else 1023.95):
            return f"{int(scaled)} B" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} PiB"


def format_rate(rate: float) -> str:
    """Return *rate* bytes per second for people: ``93.1 MiB/s``."""
    return f"{format_size(rate)}/s"


def format_duration(seconds: float | None) -> str:
    """Return *seconds* for people: ``4.2s``, ``3m 20s``, ``2h 05m``, ``3d 04h``; else ``-``."""
    if seconds is None or not 0 <= seconds <= MAX_SECONDS:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
