# SPDX-License-Identifier: Apache-2.0
"""Who is compared? One module a contestant, each with one object RIVAL; all are listed here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from benchmarks.rivals.base import Job, Rival

_MODULES: Final = (
    "fastdl",
    "curl",
    "curl_pipe",
    "aria2c",
    "wget2",
    "axel",
    "hf_transfer",
    "aiohttp_ranges",
    "nbdcopy",
    "qemu_img",
    "curl_convert",
    "cloudstack",
)


def all_rivals() -> list[Rival]:
    """Every contestant, fastdl first."""
    return [import_module(f"benchmarks.rivals.{name}").RIVAL for name in _MODULES]


__all__ = ["Job", "Rival", "all_rivals"]
