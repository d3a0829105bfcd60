# SPDX-License-Identifier: Apache-2.0
"""fastdl: VM templates onto KVM hosts: parallel, verified, straight onto primary storage.

The public API is ``fetch`` and ``probe``, their ``_sync`` forms, and the errors in
``fastdl.errors``; everything else may change between releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastdl.engine.api import fetch, fetch_sync, probe, probe_sync
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.options import Progress
    from fastdl.engine.result import Probe, Result

__version__ = "0.1.0"
__all__ = [
    "Cancel",
    "Probe",
    "Progress",
    "Result",
    "__version__",
    "fetch",
    "fetch_sync",
    "probe",
    "probe_sync",
]

_LAZY = {
    "fetch": "fastdl.engine.api",
    "fetch_sync": "fastdl.engine.api",
    "probe": "fastdl.engine.api",
    "probe_sync": "fastdl.engine.api",
    "Cancel": "fastdl.engine.cancel",
    "Progress": "fastdl.engine.options",
    "Probe": "fastdl.engine.result",
    "Result": "fastdl.engine.result",
}


def __getattr__(name: str) -> Any:
    """Load a part on first use, so that the command line loads only what it needs."""
    if name in _LAZY:
        from importlib import import_module  # noqa: PLC0415

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fastdl' has no attribute {name!r}")
