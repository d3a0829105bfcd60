# SPDX-License-Identifier: Apache-2.0
"""The results of a transfer and of a probe."""

from __future__ import annotations

from typing import Any

from fastdl.named_tuple import NamedTuple


class MirrorReport(NamedTuple):
    """One mirror's share. *url* shows neither userinfo nor query values.

    state   ok, disqualified (it lied or failed for good) or unused
    reason  why it was disqualified
    """

    url: str
    bytes: int
    requests: int
    errors: int
    state: str
    reason: str | None = None


class Result(NamedTuple):
    """A finished transfer: verified as far as possible, durable and published.

    Sizes in bytes; *stages* are busy seconds, summed over threads.
    *integrity*  strong: a strong digest from outside the origin matched; weak: only an MD5 or
                 SHA-1, or one that the origin itself sent; none: nothing to compare with
    *by_pieces*  the pieces of a metalink prove the bytes, in the stead of the whole file's digest,
                 which was not computed: *digests* does not hold it
    *consistency* why all bytes are of one version: digest (it decided), validator (all parts
                 came under one strong validator) or response (they came in a single response)
    *signed_by*  who signed the list or metalink that gave the digest, or the file, if a keyring
                 was given
    *bottleneck* what the transfer waited for most: network, hash, decode, write or flush
    """

    target: str
    source_bytes: int
    target_bytes: int
    fetched_bytes: int
    resumed_bytes: int
    digests: dict[str, str]
    integrity: str
    consistency: str
    format: str
    seconds: float
    stages: dict[str, float]
    bottleneck: str
    mirrors: tuple[MirrorReport, ...]
    warnings: tuple[str, ...]
    virtual_size: int | None = None
    already_present: bool = False
    landing: str = "same"
    signed_by: str | None = None
    by_pieces: bool = False

    @classmethod
    def of_present(
        cls,
        target: str,
        size: int,
        fmt: str,
        *,
        seconds: float,
        warnings: tuple[str, ...],
        digests: dict[str, str],
        integrity: str,
        consistency: str,
        signed_by: str | None = None,
    ) -> Result:
        """The result if *target* was complete already: *size* bytes of which none was fetched."""
        return cls(
            target=target,
            source_bytes=size,
            target_bytes=size,
            fetched_bytes=0,
            resumed_bytes=size,
            digests=digests,
            integrity=integrity,
            consistency=consistency,
            format=fmt,
            seconds=seconds,
            stages={},
            bottleneck="none",
            mirrors=(),
            warnings=warnings,
            already_present=True,
            signed_by=signed_by,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``fastdl get --json``."""
        out = self._asdict()
        out["mirrors"] = [m._asdict() for m in self.mirrors]
        out["warnings"] = list(self.warnings)
        return out


class Probe(NamedTuple):
    """What is known about a source without having fetched it.

    *safe*: whether the image is safe, None if only the complete image can show it; *error* and
    *reasons* say why not, as ``fastdl inspect`` does. *public_source*: every address that was tried
    is public.
    """

    url: str
    size: int | None
    ranges: bool
    validators: dict[str, str]
    format: str
    virtual_size: int | None
    digests: dict[str, str]
    pieces: dict[str, Any] | None
    mirrors: tuple[dict[str, Any], ...]
    metalink: bool
    safe: bool | None = None
    error: str | None = None
    reasons: tuple[str, ...] = ()
    public_source: bool = False
    warnings: tuple[str, ...] = ()
    signed_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of ``fastdl probe --json``."""
        out = self._asdict()
        for name in ("mirrors", "warnings", "reasons"):
            out[name] = list(out[name])
        return out
