# SPDX-License-Identifier: Apache-2.0
"""Does a machine's description say what was asked for, whatever its texts hold?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent.machines import domain
from fastdl.agent.machines.console import plain
from fastdl.agent.machines.disks import Disk
from fastdl.agent.pools import domains

ID = "00000000-0000-4000-8000-000000000001"


def machine(**given_: Any) -> domain.Machine:
    """A machine with a file as its disk."""
    values: dict[str, Any] = {
        "id": ID, "title": "t", "pool": "p", "disk_name": "d", "processors": 2, "memory": 1 << 28,
        "disk": Disk(path=Path("/p/d"), device=False, format="qcow2"),
        "console": "/s/console.log", "kvm": False,
    }  # fmt: skip
    return domain.Machine(**{**values, **given_})


@given(st.text(max_size=300), st.text(min_size=1, max_size=60))
def test_texts_stay_texts(title: str, name: str) -> None:
    """Whatever a name or a path holds, the document has the same elements."""
    clean = "".join(c for c in name if c.isprintable())
    disk = Disk(path=Path("/p") / clean.strip("/"), device=False, format="qcow2")
    made = fromstring(domain.describe(machine(title=title, disk=disk, disk_name=clean)))
    assert [one.get("file") for one in made.iter("source")] == [str(disk.path)]
    assert len(list(made.iter("disk"))) == 1
    assert made.findtext("uuid") == ID
    assert (made.findtext("title") or "").isprintable()


def test_it_is_recognised_again() -> None:
    """By its own mark, and by whoever looks for users of a disk."""
    drive = Disk(path=Path("/dev/loop9p1"), device=True, format="raw")
    text = domain.describe(machine(drive=drive, kvm=True))
    assert domain.pool_and_disk(text) == ("p", "d")
    assert set(domains.in_description(text)) >= {"/p/d", "/dev/loop9p1"}
    assert domain.accelerated(text)
    assert domain.pool_and_disk("<domain type='qemu'><metadata/></domain>") is None


@pytest.mark.parametrize("controller", ["", "virtio", "scsi", "sata", "ide", "floppy", "x'/>"])
@pytest.mark.parametrize("iso", [False, True])
def test_no_two_drives_share_a_name(controller: str, iso: bool) -> None:
    """Whatever the root disk's controller."""
    drive = Disk(path=Path("/p/i.iso"), device=False, format="raw") if iso else None
    made = fromstring(domain.describe(machine(controller=controller, drive=drive)))
    names = [one.get("dev") for one in made.iter("target") if one.get("dev")]
    assert len(names) == len(set(names)) == 1 + iso
    boots = [one.get("dev") for one in made.iter("boot")]
    assert boots == ["hd", "cdrom"][: 1 + iso]


@given(st.binary(max_size=200))
def test_a_guest_commands_no_terminal(data: bytes) -> None:
    """Only printable characters, line ends and tabs of its output remain."""
    assert all(c.isprintable() or c in "\n\t" for c in plain(data))


def test_its_lines_stay_lines() -> None:
    """Also where it writes carriage returns, as serial consoles do."""
    assert plain(b"\x1b[2Jup\r\nand\x07 running\n") == "[2Jup\nand running\n"
