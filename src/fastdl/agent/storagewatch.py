# SPDX-License-Identifier: Apache-2.0
"""When has this host's storage changed? When the kernel's mounts do, or libvirt reports it."""

from __future__ import annotations

import contextlib
import logging
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastdl import fs
from fastdl.agent.pools.hypervisor import connect, library, libvirt_errors
from fastdl.errors import FastdlError

log = logging.getLogger(__name__)

_AGAIN_S: Final = 10.0
"""Between two attempts to reach a libvirt that is down."""
_loop_lock = threading.Lock()
_loop_runs = False


class StorageWatch:
    """Calls *changed*, from its own threads, after each change; ends with the process."""

    def __init__(self, changed: Callable[[], None], *, libvirt: str | None) -> None:
        """*libvirt*: the URI whose pools are this host's; None if they are configured."""
        self._changed = changed
        self._libvirt = libvirt
        self._stop = threading.Event()

    def start(self) -> None:
        """Watch from now on."""
        threading.Thread(target=self._mounts, name="mounts", daemon=True).start()
        if self._libvirt is not None:
            threading.Thread(target=self._pools, name="pools", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _mounts(self) -> None:
        """The kernel marks the file as exceptional when a mount comes or goes, see proc(5)."""
        with contextlib.suppress(OSError), Path(fs.MOUNTS).open("rb") as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI | select.POLLERR)
            while not self._stop.is_set():
                if poll.poll(1000):
                    self._changed()

    def _pools(self) -> None:
        assert self._libvirt is not None
        while not self._stop.is_set():
            try:
                _run_libvirts_loop()
                with libvirt_errors(f"libvirt at {self._libvirt}"):
                    self._follow(connect(self._libvirt))
            except FastdlError as exc:
                log.debug("libvirt's events are unavailable: %s", exc)
            self._stop.wait(_AGAIN_S)

    def _follow(self, connection: Any) -> None:
        """Process events until the connection breaks."""
        libvirt, closed = library(), threading.Event()

        def on_event(*_: Any) -> None:
            self._changed()

        try:
            connection.registerCloseCallback(lambda *_: closed.set(), None)
            for kind in (
                libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE,
                libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH,
            ):
                connection.storagePoolEventRegisterAny(None, kind, on_event, None)
            connection.setKeepAlive(5, 3)
            self._changed()  # changes while nothing was listening
            while not closed.wait(1.0):
                if self._stop.is_set():
                    return
            self._changed()
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()


def _run_libvirts_loop() -> None:
    """libvirt's own loop, one per process: it must exist before the connection."""
    global _loop_runs  # noqa: PLW0603 - libvirt's is as global
    with _loop_lock:
        if _loop_runs:
            return
        libvirt = library()
        libvirt.virEventRegisterDefaultImpl()
        # A timer, so that the loop also wakes up if nothing is registered yet.
        libvirt.virEventAddTimeout(1000, lambda *_: None, None)
        _loop_runs = True

    def run() -> None:
        while True:
            with contextlib.suppress(libvirt.libvirtError):
                libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt", daemon=True).start()
