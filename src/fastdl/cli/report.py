# SPDX-License-Identifier: Apache-2.0
"""Results as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from fastdl.engine.result import Probe, Result
from fastdl.errors import FastdlError
from fastdl.model.units import format_duration, format_rate, format_size
from fastdl.model.url import Url


def summary(result: Result) -> str:
    """What ``fastdl get`` prints when it is done."""
    if result.already_present:
        proof = "not compared" if result.integrity == "none" else "verified"
        return f"{result.target}: there already, {format_size(result.target_bytes)}, {proof}"
    rate = result.fetched_bytes / result.seconds if result.seconds > 0 else 0
    signed = ", by pieces" if result.by_pieces else ""
    signed += f", signed by {result.signed_by}" if result.signed_by else ""
    lines = [
        (
            f"{result.target}: {format_size(result.source_bytes)} in "
            f"{format_duration(result.seconds)} ({format_rate(rate)}), "
            f"integrity {result.integrity}{signed}, limited by {result.bottleneck}"
        )
    ]
    if result.resumed_bytes:
        lines.append(f"  resumed    {format_size(result.resumed_bytes)} were there already")
    if result.landing != "same":
        lines.append(
            f"  converted  {result.format} ({result.landing}) to raw, "
            f"{format_size(result.target_bytes)}"
        )
    lines += [f"  {name:<9}  {value}" for name, value in result.digests.items()]
    for mirror in result.mirrors:
        note = f"  {mirror.state}" if mirror.state != "ok" else ""
        why = f": {mirror.reason}" if mirror.reason else ""
        lines.append(f"  mirror     {format_size(mirror.bytes):>10}  {mirror.url}{note}{why}")
    return "\n".join(lines)


def line(result: Result) -> str:
    """What ``fastdl get`` prints about one file of several."""
    if result.already_present:
        return f"{result.target}: there already, {format_size(result.target_bytes)}"
    rate = result.fetched_bytes / result.seconds if result.seconds > 0 else 0
    return (
        f"{result.target}: {format_size(result.source_bytes)} in "
        f"{format_duration(result.seconds)} ({format_rate(rate)}), integrity {result.integrity}"
    )


def failure_line(source: str, error: FastdlError) -> str:
    """What is said of one file of several that failed."""
    return f"fastdl: {error.code_name}: {shown_source(source)}: {error.message}"


def shown_source(source: str) -> str:
    """A source as it may be shown; what is no URL has no secrets, or is a mistake."""
    try:
        return Url.parse(source).display()
    except FastdlError:
        return source if source.startswith("simplestreams:") and "@" not in source else "a source"


def total(results: Sequence[Result | None], expected: int, seconds: float) -> str:
    """The last line of several files."""
    done = [result for result in results if result is not None]
    fetched = sum(result.fetched_bytes for result in done)
    rate = format_rate(fetched / seconds if seconds > 0 else 0)
    failed = len(results) - len(done)
    parts = [f"{len(done)} of {expected} files", f"{format_size(fetched)} fetched in "]
    parts[1] += f"{format_duration(seconds)} ({rate})"
    if failed:
        parts.append(f"{failed} failed")
    if len(results) < expected:
        parts.append(f"{expected - len(results)} not done")
    return ", ".join(parts)


def describe(found: Probe) -> str:
    """What ``fastdl probe`` prints."""
    size = "unknown" if found.size is None else f"{found.size} ({format_size(found.size)})"
    lines = [
        found.url,
        f"  size          {size}",
        f"  format        {found.format}",
    ]
    if found.virtual_size is not None:
        lines.append(f"  virtual size  {found.virtual_size} ({format_size(found.virtual_size)})")
    if found.safe is False:
        lines.append(f"  not safe      {'; '.join(found.reasons)}")
    lines.append(f"  ranges        {'yes' if found.ranges else 'no'}")
    validators = {name.removeprefix("last_"): value for name, value in found.validators.items()}
    lines += [f"  {name:<12}  {value}" for name, value in validators.items()]
    lines += [f"  {name:<12}  {value}" for name, value in found.digests.items()]
    if found.signed_by:
        lines.append(f"  signed by     {found.signed_by}")
    if found.pieces:
        lines.append(
            f"  pieces        {found.pieces['count']} x {format_size(found.pieces['length'])}, "
            f"{found.pieces['algorithm']}"
        )
    lines += [f"  mirror        {mirror['url']}" for mirror in found.mirrors]
    return "\n".join(lines)
