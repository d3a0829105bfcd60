# SPDX-License-Identifier: Apache-2.0
"""How does a confined process get code and certificates that its user may not read?

What nearly every job needs is loaded once for all its processes. A confined process loads the rest
when it needs it, like every other process of fastdl. If the code is below a folder that only root
may enter (a virtual environment in /root, say), the folder is held open; if only root may read the
files, everything is loaded in advance. The operator's own file of authorities is copied to a
readable location.
"""

from __future__ import annotations

import functools
import importlib
import os
import stat
import sys

from fastdl.named_tuple import NamedTuple

_COMMON = ("engine.probe", "engine.fetch", "engine.journal", "engine.net", "engine.landing.plan")
_RARE = (
    *("core.image", "core.lander"),
    *(
        "engine.compare",
        "engine.folder",
        "engine.takeover",
        "engine.mending",
        "engine.readback",
        "engine.rules",
        "engine.signed",
        "engine.source.documents",
        "engine.unpack",
    ),
    *("engine.source.race", "engine.source.vouched", "engine.spool", "engine.staging"),
    *("engine.landing.qcow2", "engine.landing.staged", "engine.landing.stream"),
    "model.http_date",
    *("model.image_iso", "model.image_vdi", "model.image_vhd", "model.image_vmdk"),
    "model.image_xz",
    *(
        "sinks.null",
        "sinks.signature",
        "sources.discovery",
        "sources.store_digests",
        "sources.metalink",
    ),
)
_OF_OTHERS = (
    *("base64", "hashlib", "idna", "ipaddress", "pathlib", "shutil", "tempfile"),
    *("urllib.parse", "xml.parsers.expat"),
    *("encodings.ascii", "encodings.latin_1", "encodings.utf_8_sig", "encodings.utf_16"),
)
"""What those import inside functions."""
_AUTHORITIES_MAX = 16 << 20


class Supplies(NamedTuple):
    """What a confined fork has to keep, and to apply. A program that it executes does not inherit
    the descriptors.
    """

    descriptors: tuple[int, ...]
    environment: dict[str, str]
    ways: tuple[tuple[str, str], ...]
    """(entry of ``sys.path``, path by which it is reached)."""

    def apply(self) -> None:
        """Set the environment, and find modules through the folders held open."""
        os.environ.update(self.environment)
        for old, new in self.ways:
            for module in list(sys.modules.values()):
                places = getattr(module, "__path__", None)
                if isinstance(places, list):
                    places[:] = [_moved(place, old, new) for place in places]
            sys.path[:] = [_moved(place, old, new) for place in sys.path]


@functools.cache
def supplies_for_confined() -> Supplies:
    """Load, or make loadable, what confined forks of this process need; once."""
    for name in _COMMON:
        importlib.import_module(f"fastdl.{name}")
    importlib.import_module("xxhash")  # the journal's, which loads hashlib
    kept, environment = _copy_authorities()
    if not all(map(_is_readable, (os.__file__, __file__))):
        load_all()
        return Supplies(kept, environment, ())
    shut = [entry for entry in sys.path if _is_shut(entry)]
    held = tuple(os.open(entry or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for entry in shut)
    ways = tuple((entry, f"/proc/self/fd/{fd}") for entry, fd in zip(shut, held, strict=True))
    return Supplies((*kept, *held), environment, ways)


@functools.cache
def supplied() -> Supplies:
    """``supplies_for_confined``, applied to this process. Its forks find that done: going through
    all modules would copy a page for nearly each of them.
    """
    supplies = supplies_for_confined()
    supplies.apply()
    return supplies


def load_all() -> None:
    """Load all that reading an origin's bytes can ever need."""
    for name in (*_COMMON, *_RARE):
        importlib.import_module(f"fastdl.{name}")
    for name in _OF_OTHERS:
        importlib.import_module(name)


def _copy_authorities() -> tuple[tuple[int, ...], dict[str, str]]:
    """Copy the file in SSL_CERT_FILE into memory, under a name that every user can open."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return (), {}
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read(_AUTHORITIES_MAX)
    except OSError:
        return (), {}  # the download reports that, if it needs it
    fd = os.memfd_create("authorities")
    os.write(fd, content)
    return (fd,), {"SSL_CERT_FILE": f"/proc/self/fd/{fd}"}


def _is_readable(path: str) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IROTH)  # noqa: PTH116


def _is_shut(entry: str) -> bool:
    """Whether *entry* or a folder above it may not be entered by everybody."""
    path = os.path.realpath(entry)
    if not os.path.isdir(path):  # noqa: PTH112
        return False
    while os.stat(path).st_mode & stat.S_IXOTH:  # noqa: PTH116
        if path == "/":
            return False
        path = os.path.dirname(path)  # noqa: PTH120
    return True


def _moved(place: str, old: str, new: str) -> str:
    inside = place == old or place.startswith(f"{old}/")
    return new + place[len(old) :] if inside else place
