# SPDX-License-Identifier: Apache-2.0
"""How does the agent use libvirt? The library is optional, and imported only here."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from fastdl.errors import FastdlError, SinkIOError, SinkRefusedError, UsageError


class Libvirt:
    """A connection to libvirt that is opened when needed and reopened after a failure."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._connection: Any = None

    def pool(self, pool_id: str) -> Any:
        """libvirt's pool of that uuid; SinkRefusedError if there is none."""
        with libvirt_errors(f"the pool {pool_id}"):
            return self._open().storagePoolLookupByUUIDString(pool_id)

    def pool_named(self, name: str) -> Any:
        """libvirt's pool of that name, else of that uuid; SinkRefusedError if there is none."""
        with libvirt_errors(f"the pool {name}"):
            try:
                return self._open().storagePoolLookupByName(name)
            except library().libvirtError:
                if not _is_uuid(name):
                    raise
                return self._open().storagePoolLookupByUUIDString(name)

    def pools(self) -> Sequence[Any]:
        """The pools, including those that are not started."""
        with libvirt_errors("the list of pools"):
            return list(self._open().listAllStoragePools())

    def _open(self) -> Any:
        if self._connection is None or not self._connection.isAlive():
            self._connection = library().open(self.uri)
        return self._connection


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def libvirt_errors(what: str) -> Iterator[None]:
    """Turn libvirt's error into one of ours, in one sentence."""
    found = library()
    try:
        yield
    except found.libvirtError as exc:
        kind: type[FastdlError] = SinkRefusedError
        if exc.get_error_code() in {found.VIR_ERR_INTERNAL_ERROR, found.VIR_ERR_SYSTEM_ERROR}:
            kind = SinkIOError
        raise kind(_in_one_line(f"libvirt on {what}: {exc}")) from exc


def _in_one_line(text: str) -> str:
    """A tool that libvirt ran may have written several."""
    return " ".join(text.split())


def connect(uri: str) -> Any:
    """A new connection to libvirt, which the caller closes."""
    return library().open(uri)


def require_library() -> None:
    """UsageError if libvirt's Python package is missing."""
    library()


@contextlib.contextmanager
def still_defined() -> Iterator[None]:
    """Skip the block's rest where its pool was undefined since it was listed."""
    found = library()
    try:
        yield
    except found.libvirtError as exc:
        if exc.get_error_code() != found.VIR_ERR_NO_STORAGE_POOL:
            raise


def library() -> Any:
    """libvirt's Python module; UsageError if it is not installed."""
    try:
        import libvirt  # the extra [libvirt]
    except ImportError:
        raise UsageError(
            "libvirt pools need the Python package libvirt-python: "
            "pip install '.[libvirt]' in fastdl's source folder"
        ) from None
    # Errors are raised as well; without this they are also printed.
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt
