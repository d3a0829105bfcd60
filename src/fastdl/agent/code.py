# SPDX-License-Identifier: Apache-2.0
"""Can a user without any rights load this program's code, and if not, what is it to have before?

A confined process loads rare parts when it needs them, as every other process of fastdl does.
From a folder that only root may enter it could not.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
import sys

_PACKAGES = ("core", "engine", "sources", "sinks", "model")
_OF_OTHERS = (
    *("base64", "hashlib", "idna", "ipaddress", "urllib.parse", "xml.parsers.expat", "xxhash"),
    *("encodings.ascii", "encodings.latin_1", "encodings.utf_8_sig", "encodings.utf_16"),
)
"""What those packages load inside of functions."""
_NOT_NEEDED = frozenset({"fastdl.core.build", "fastdl.engine.reference"})


def code_is_readable() -> bool:
    """Whether everybody may enter the folders that code comes from."""
    return all(map(_is_open, {os.__file__, __file__, *_entries()}))


def load_all() -> None:
    """Load all that reading an origin's bytes can ever need."""
    for name in _PACKAGES:
        package = importlib.import_module(f"fastdl.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"fastdl.{name}."):
            if module.name not in _NOT_NEEDED:
                importlib.import_module(module.name)
    for name in _OF_OTHERS:
        importlib.import_module(name)


def _entries() -> list[str]:
    return [path for path in sys.path if os.path.isdir(path)]  # noqa: PTH112


def _is_open(path: str) -> bool:
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    while True:
        if not os.stat(folder).st_mode & stat.S_IXOTH:  # noqa: PTH116
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)  # noqa: PTH120
