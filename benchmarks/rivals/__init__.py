# SPDX-License-Identifier: Apache-2.0
"""Who is compared? One module a contestant, each with one object RIVAL; all are listed here."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from benchmarks.rivals.base import Job, Rival

_MODULES: Final = (
    "fastdl",
    "fastdl_openssl",
    "fastdl_before",
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


def chosen(names: str | None) -> list[Rival]:
    """fastdl and the rivals that *names* lists (all without a list)."""
    rivals = all_rivals()
    if names is None:
        return rivals
    wanted = {name for name in names.split(",") if name}
    if unknown := wanted - {rival.name for rival in rivals}:
        raise ValueError(f"no rival is called {', '.join(sorted(unknown))}: see --list")
    return [rival for rival in rivals if rival.name in wanted or rival.name == "fastdl"]


__all__ = ["Job", "Rival", "all_rivals", "chosen"]
