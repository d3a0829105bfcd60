# SPDX-License-Identifier: Apache-2.0
"""The description of a virtual machine for libvirt. Pure; every text in it is escaped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from xml.etree.ElementTree import Element, SubElement, tostring

from defusedxml.ElementTree import fromstring

from fastdl.agent.machines.disks import Disk

NAMESPACE: Final = "urn:fastdl:machine"
_TITLE_MAX: Final = 255
_BUSES: Final = {"virtio": "vd", "scsi": "sd", "sata": "sd", "ide": "sd"}
"""Of CloudStack's root disk controllers; this board has SATA where older ones have IDE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is described. *memory*: bytes; *drive*: an ISO; *console*: the file that gets what the
    guest writes to its serial port; *kvm*: accelerated by the processor."""

    id: str
    title: str
    pool: str
    disk: Disk
    disk_name: str
    drive: Disk | None = None
    processors: int
    memory: int
    controller: str = ""
    console: str
    kvm: bool


def name_of(machine: str) -> str:
    """The domain's name: nobody chooses it, and it is the machine's in every list."""
    return f"fastdl-{machine}"


def describe(machine: Machine) -> str:
    """Return the domain's XML."""
    root = Element("domain", {"type": "kvm" if machine.kvm else "qemu"})
    SubElement(root, "name").text = name_of(machine.id)
    SubElement(root, "uuid").text = machine.id
    if title := _printable(machine.title):
        SubElement(root, "title").text = title
    about = SubElement(SubElement(root, "metadata"), f"{{{NAMESPACE}}}machine")
    about.set("pool", machine.pool)
    about.set("disk", machine.disk_name)
    SubElement(root, "memory", {"unit": "b"}).text = str(machine.memory)
    SubElement(root, "vcpu").text = str(machine.processors)
    system = SubElement(root, "os")
    SubElement(system, "type", {"arch": "x86_64", "machine": "q35"}).text = "hvm"
    # The disk first: one that is still empty has nothing to boot, and the drive follows.
    SubElement(system, "boot", {"dev": "hd"})
    if machine.drive is not None:
        SubElement(system, "boot", {"dev": "cdrom"})
    # Without them an emulated machine takes a minute to reach its boot sector.
    features = SubElement(root, "features")
    SubElement(features, "acpi")
    SubElement(features, "apic")
    if machine.kvm:
        SubElement(root, "cpu", {"mode": "host-passthrough"})
    SubElement(root, "clock", {"offset": "utc"})
    SubElement(root, "on_poweroff").text = "destroy"
    SubElement(root, "on_reboot").text = "restart"
    SubElement(root, "on_crash").text = "destroy"
    devices = SubElement(root, "devices")
    bus = machine.controller if machine.controller in _BUSES else "virtio"
    if bus == "ide":
        bus = "sata"
    _add(devices, machine.disk, kind="disk", bus=bus, target=f"{_BUSES[bus]}a")
    if machine.drive is not None:
        used = bus == "sata"
        _add(devices, machine.drive, kind="cdrom", bus="sata", target="sdb" if used else "sdc")
    if bus == "scsi":
        SubElement(devices, "controller", {"type": "scsi", "model": "virtio-scsi"})
    serial = SubElement(devices, "serial", {"type": "pty"})
    SubElement(serial, "target", {"port": "0"})
    SubElement(serial, "log", {"file": machine.console, "append": "on"})
    SubElement(devices, "memballoon", {"model": "virtio"})
    random = SubElement(devices, "rng", {"model": "virtio"})
    SubElement(random, "backend", {"model": "random"}).text = "/dev/urandom"
    return str(tostring(root, encoding="unicode"))


def _add(devices: Element, disk: Disk, *, kind: str, bus: str, target: str) -> None:
    form = "block" if disk.device else "file"
    element = SubElement(devices, "disk", {"type": form, "device": kind})
    driver = {"name": "qemu", "type": disk.format}
    if kind == "disk":
        driver |= {"cache": "none"} if disk.device else {"discard": "unmap"}
    SubElement(element, "driver", driver)
    SubElement(element, "source", {"dev" if disk.device else "file": str(disk.path)})
    SubElement(element, "target", {"dev": target, "bus": bus})
    if kind == "cdrom":
        SubElement(element, "readonly")


def _printable(text: str) -> str:
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text))[:_TITLE_MAX]


def pool_and_disk(text: str) -> tuple[str, str] | None:
    """Return (pool, disk) of a domain's XML; None if it is not one of ours."""
    found: Any = fromstring(text).find(f"metadata/{{{NAMESPACE}}}machine")
    if found is None:
        return None
    return found.get("pool") or "", found.get("disk") or ""


def accelerated(text: str) -> bool:
    """Whether the machine of a domain's XML is accelerated by the processor."""
    return bool(fromstring(text).get("type") == "kvm")
