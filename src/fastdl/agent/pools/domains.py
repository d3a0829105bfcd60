# SPDX-License-Identifier: Apache-2.0
"""Which virtual machines of this host know of an image? The disks in libvirt's domains.

Stopped ones count: they will need their disks again. Snapshots have their own descriptions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element

from defusedxml.ElementTree import fromstring

from fastdl.agent.pools.hypervisor import connect, library, libvirt_errors
from fastdl.errors import FastdlError, SinkBusyError

_DEFINED: Final = (Path("/etc/libvirt/qemu"), Path("/run/libvirt/qemu"))
"""Where the system's libvirtd keeps its domains, running or not."""


def disks(uri: str) -> list[tuple[str, str]]:
    """Return (domain, location) of every disk of every domain at *uri*.

    A location is a path, ``rbd:POOL/IMAGE``, or ``volume:POOL/VOLUME``. Nothing if there is no
    libvirt; SinkBusyError if there is one that has domains but does not respond.
    """
    try:
        with libvirt_errors(f"libvirt at {uri}"):
            connection = connect(uri)
            try:
                return [pair for domain in connection.listAllDomains() for pair in _of(domain)]
            finally:
                connection.close()
    except FastdlError as exc:
        if any(known for folder in _DEFINED for known in _files(folder)):
            raise SinkBusyError(f"cannot determine whether a domain uses the copy: {exc}") from exc
        return []


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.glob("*.xml"))
    return []


def _of(domain: Any) -> Iterator[tuple[str, str]]:
    libvirt = library()
    texts = []
    # A domain, or a snapshot, may vanish while we look; what is gone uses nothing.
    with contextlib.suppress(libvirt.libvirtError):
        texts.append(domain.XMLDesc(0))
        texts.append(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    with contextlib.suppress(libvirt.libvirtError):
        texts += [snapshot.getXMLDesc(0) for snapshot in domain.listAllSnapshots()]
    found = dict.fromkeys(place for text in texts for place in in_description(text))
    for place in found:
        yield domain.name(), place


def in_description(text: str) -> Iterator[str]:
    """Yield the locations of disks in the XML of a domain or a snapshot."""
    for disk in _disks(fromstring(text)):
        for source in disk.iter():
            if source.tag in {"source", "dataStore", "mirror"}:
                yield from _location(source)


def _disks(root: Element) -> Iterator[Element]:
    yield from root.iter("disk")
    for tag in ("kernel", "initrd", "nvram", "loader", "memory"):
        for element in root.iter(tag):
            path = element.get("file") or (element.text or "").strip()
            if path.startswith("/"):
                disk = Element("disk")
                disk.append(Element("source", {"file": path}))
                yield disk


def _location(source: Element) -> Iterator[str]:
    for name in ("file", "dev"):
        if path := source.get(name):
            yield path
    if source.get("protocol") == "rbd" and source.get("name"):
        yield f"rbd:{source.get('name')}"
    if source.get("volume"):
        yield f"volume:{source.get('pool') or ''}/{source.get('volume')}"
