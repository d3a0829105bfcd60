# SPDX-License-Identifier: Apache-2.0
"""The demo's virtual machine, its libvirtd where none runs, and its block device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import Any

from fastdl.cli import streams
from fastdl.cli.demo_stage import Stage
from fastdl.errors import FastdlError
from fastdl.lab import kvm

LINE = "Hello from a virtual machine whose template never touched secondary storage."
LIBVIRT = "qemu:///system"
_BOOT_S = 60.0


def block_device(stage: Stage, size: int) -> tuple[str | None, str]:
    """(a loop device of *size* bytes, or None; why there is none)."""
    if os.geteuid() != 0:
        return None, "not root"
    if not shutil.which("losetup"):
        return None, "no losetup"
    backing = stage.folder / "device.img"
    with backing.open("wb") as file:
        file.truncate(size)
    done = subprocess.run(
        ["losetup", "--find", "--show", str(backing)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode:
        return None, done.stderr.strip()
    device = done.stdout.strip()
    stage.cleaning.callback(
        subprocess.run, ["losetup", "--detach", device], check=False, timeout=30
    )
    return device, ""


def libvirtd(stage: Stage) -> str:
    """Make sure that libvirt answers: "", or why no virtual machine can run here."""
    try:
        import libvirt  # the extra [libvirt]
    except ImportError:
        return "the Python package libvirt-python is not installed"
    libvirt.registerErrorHandler(lambda *_: None, None)
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    if _answers():
        return ""
    if os.geteuid() != 0:
        return f"{LIBVIRT} does not answer, and starting it needs root"
    if not shutil.which("libvirtd") or not shutil.which("virtlogd"):
        return "libvirtd is not installed"
    kvm.let_group_open()
    for name in ("virtlogd", "libvirtd"):
        stage.run(name, name, "-p", str(stage.folder / f"{name}.pid"))
    try:
        stage.until("libvirtd's start", _answers)
    except FastdlError as exc:
        return exc.message[:300]
    return ""


def _answers() -> bool:
    import libvirt

    with contextlib.suppress(libvirt.libvirtError):
        libvirt.open(LIBVIRT).close()
        return True
    return False


def deploy(stage: Stage, zone: str, template: str) -> None:
    """Deploy a machine, and wait for its guest's line."""

    def able() -> bool:
        found = stage.api("list", "hosts", "state=Up", quiet=True)
        return bool(found.get("count"))

    stage.until("a host for machines", able)
    answer = stage.api(
        "--wait",
        "deploy",
        "virtualmachine",
        "name=demo",
        f"templateid={template}",
        f"zoneid={zone}",
        "memory=64",
        show="{name} is {state} on {hostname}, its disk in {storagename}",
    )
    machine = answer["virtualmachine"]["id"]
    stage.machines.callback(_remove, stage, machine)
    words = ("get", "virtualmachineconsoleoutput", f"id={machine}")

    def said() -> str | None:
        output: str = stage.api(*words, quiet=True)["consoleoutput"]["output"]
        return next((line for line in output.splitlines() if LINE in line), None)

    line: str = stage.until("the guest's line", said, within=_BOOT_S)
    stage.api(*words)
    streams.say(f"     the guest says: {line}")


def _remove(stage: Stage, machine: str) -> None:
    """Remove the machine by the API; by libvirt if the API cannot."""
    with contextlib.suppress(FastdlError):
        stage.api("--wait", "destroy", "virtualmachine", f"id={machine}", "expunge=true")
        return
    _undefine(machine)


def _undefine(machine: str) -> None:
    import libvirt

    with contextlib.suppress(libvirt.libvirtError):
        connection: Any = libvirt.open(LIBVIRT)
        found = connection.lookupByUUIDString(machine)
        if found.isActive():
            found.destroy()
        found.undefine()
        connection.close()
