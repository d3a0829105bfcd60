# SPDX-License-Identifier: Apache-2.0
"""What is recorded about a copy, and what is reported about it?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastdl import __version__
from fastdl.agent.pools import Marker
from fastdl.wire.messages import DownloadDone, MirrorReport, Validators


def now() -> str:
    """The time, in the format of markers."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def marker_of(known: Marker, result: Mapping[str, Any], probe: Mapping[str, Any]) -> Marker:
    """The marker made from the engine's *result*; *known*: the volume's marker until now."""
    mirrors = tuple(result.get("mirrors") or ())
    return Marker(
        volume=known.volume,
        template=known.template,
        zone=known.zone,
        complete=True,
        handle=known.handle,
        size=int(result["target_bytes"]),
        virtual_size=int(result.get("virtual_size") or result["target_bytes"]),
        format=str(result.get("format") or ""),
        integrity=str(result.get("integrity") or "none"),
        digests=dict(result.get("digests") or {}),
        landing=str(result.get("landing") or ""),
        sources=tuple(str(mirror["url"]) for mirror in mirrors),
        validators=dict(probe.get("validators") or {}),
        mirrors=mirrors,
        finished=now(),
        fastdl=__version__,
    )


def done(
    marker: Marker,
    install_path: str,
    *,
    result: Mapping[str, Any] | None = None,
    already: bool = False,
    replaced: str = "",
) -> DownloadDone:
    """The report of a finished copy; *replaced*: why an earlier one was replaced."""
    run = result or {}
    return DownloadDone(
        install_path=install_path,
        virtual_size=marker.virtual_size,
        source_bytes=int(run.get("source_bytes") or 0),
        target_bytes=marker.size,
        fetched_bytes=int(run.get("fetched_bytes") or 0),
        digests=dict(marker.digests),
        integrity=marker.integrity,
        format=marker.format,
        seconds=float(run.get("seconds") or 0.0),
        validators=validators_of({"validators": marker.validators, "size": marker.size}),
        mirrors=tuple(mirror_report(mirror) for mirror in marker.mirrors[:64]),
        warnings=tuple(str(warning)[:4096] for warning in run.get("warnings", ())[:64]),
        already_present=already,
        replaced=replaced[:4096],
        bottleneck=str(run.get("bottleneck") or "")[:16],
    )


def validators_of(probe: Mapping[str, Any]) -> Validators:
    """The fields of a probe's result that distinguish one version of the source from another."""
    found = probe.get("validators") or {}
    return Validators(
        size=probe.get("size"), etag=found.get("etag"), last_modified=found.get("last_modified")
    )


def mirror_report(plain: Mapping[str, Any]) -> MirrorReport:
    """What one mirror did, as sent over the wire."""
    return MirrorReport(
        url=str(plain.get("url", ""))[:4096],
        bytes=int(plain.get("bytes") or 0),
        requests=int(plain.get("requests") or 0),
        errors=int(plain.get("errors") or 0),
        state=str(plain.get("state", ""))[:32],
    )
