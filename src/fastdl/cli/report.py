# SPDX-License-Identifier: Apache-2.0
"""Results as people read them."""

from __future__ import annotations

from fastdl.engine.result import Probe, Result
from fastdl.model.units import format_duration, format_rate, format_size


def summary(result: Result) -> str:
    """What ``fastdl get`` prints when it is done."""
    if result.already_present:
        return f"{result.target}: there already, {format_size(result.target_bytes)}, verified"
    rate = result.source_bytes / result.seconds if result.seconds > 0 else 0
    signed = f", signed by {result.signed_by}" if result.signed_by else ""
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
    lines += [f"  {name:<12}  {value}" for name, value in found.validators.items()]
    lines += [f"  {name:<12}  {value}" for name, value in found.digests.items()]
    if found.pieces:
        lines.append(
            f"  pieces        {found.pieces['count']} x {format_size(found.pieces['length'])}, "
            f"{found.pieces['algorithm']}"
        )
    lines += [f"  mirror        {mirror['url']}" for mirror in found.mirrors]
    return "\n".join(lines)
