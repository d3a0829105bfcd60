# SPDX-License-Identifier: Apache-2.0
"""The domains of this host's virtual machines, in libvirt: define, start, stop, forget."""

from __future__ import annotations

import contextlib
import platform
import re
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastdl.agent.machines import domain
from fastdl.agent.pools.hypervisor import connect, library, libvirt_errors
from fastdl.errors import FastdlError, SinkRefusedError, UsageError

ARCHITECTURE: Final = "x86_64"
_CPUINFO: Final = Path("/proc/cpuinfo")
_POLL_S: Final = 0.2


def usable(uri: str) -> bool:
    """Whether this host can run virtual machines now."""
    if platform.machine() != ARCHITECTURE:
        return False
    try:
        with _connected(uri):
            return True
    except FastdlError:
        return False


def accelerates(uri: str) -> bool:
    """Whether libvirt offers KVM, on a processor that virtualises.

    Where the processor does not, a /dev/kvm that exists is done in software by whatever this host
    runs on: guests are slower than emulated ones, or never come up.
    """
    with contextlib.suppress(OSError):
        if not re.search(r"\b(vmx|svm)\b", _CPUINFO.read_text()):
            return False
    with _connected(uri) as connection, contextlib.suppress(library().libvirtError):
        connection.getDomainCapabilities(None, ARCHITECTURE, "q35", "kvm")
        return True
    return False


class Guests:
    """One connection's domains; methods block, errors are the classes of ``fastdl.errors``."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def find(self, machine: str) -> Any:
        """The machine's domain, None if it has none; SinkRefusedError for one that is not ours."""
        libvirt = library()
        with libvirt_errors(f"the machine {machine}"):
            try:
                found = self._connection.lookupByUUIDString(machine)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
            if domain.pool_and_disk(found.XMLDesc()) is None:
                raise SinkRefusedError(f"libvirt has a machine {machine} that fastdl did not make")
            return found

    def define(self, described: str) -> Any:
        """Define a domain, or leave it as it is."""
        with libvirt_errors("a new machine"):
            return self._connection.defineXML(described)

    def running(self, found: Any) -> bool:
        """Whether the domain runs."""
        with libvirt_errors(found.name()):
            return bool(found.isActive())

    def start(self, found: Any) -> None:
        """Start the domain, unless it runs."""
        if self.running(found):
            return
        with libvirt_errors(found.name()):
            found.create()

    def stop(self, found: Any, *, patience: float, stop: threading.Event) -> None:
        """Switch the domain off: *patience* seconds after it was asked, 0 = at once."""
        libvirt = library()
        end = time.monotonic() + patience
        if patience > 0 and self.running(found):
            with contextlib.suppress(libvirt.libvirtError):
                found.shutdown()
            while self.running(found) and time.monotonic() < end and not stop.wait(_POLL_S):
                pass
        with libvirt_errors(found.name()):
            if found.isActive():
                try:
                    found.destroy()
                except libvirt.libvirtError as exc:  # it went off by itself in this moment
                    if exc.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                        raise

    def forget(self, found: Any) -> None:
        """Remove the definition of a domain that does not run."""
        libvirt = library()
        with libvirt_errors(found.name()):
            try:
                found.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                )
            except libvirt.libvirtError as exc:
                if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise

    def ours(self) -> Iterator[tuple[str, str, str, bool]]:
        """Yield (machine, pool, disk, whether it runs) of every machine of fastdl's."""
        libvirt = library()
        with libvirt_errors("the machines"):
            found = self._connection.listAllDomains()
        for one in found:
            with contextlib.suppress(libvirt.libvirtError):  # it vanished meanwhile
                if (about := domain.pool_and_disk(one.XMLDesc())) is not None:
                    yield one.UUIDString(), *about, bool(one.isActive())


@contextlib.contextmanager
def connected(uri: str) -> Iterator[Guests]:
    """The domains at *uri*; UsageError without libvirt's library."""
    with _connected(uri) as connection:
        yield Guests(connection)


@contextlib.contextmanager
def _connected(uri: str) -> Iterator[Any]:
    with libvirt_errors(f"libvirt at {uri}"):
        connection = connect(uri)
    try:
        yield connection
    finally:
        with contextlib.suppress(library().libvirtError):
            connection.close()


def check_id(machine: str) -> str:
    """Return the machine's id as libvirt spells it; UsageError if it is not a UUID."""
    try:
        return str(uuid.UUID(machine))
    except ValueError:
        raise UsageError(f"{machine[:64]!a} is not the id of a machine") from None
