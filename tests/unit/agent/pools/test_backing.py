# SPDX-License-Identifier: Apache-2.0
"""Which names does an image's header hold? Against lies; real images are tests/integration's."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent.pools.backing import Headers, Unreadable, locations, names_in

FOLDER = Path("/pool")


def qcow2(name: bytes, *, at: int = 200, length: int | None = None) -> bytes:
    """A header of version 2 that says where its backing file's name is."""
    head = b"QFI\xfb" + struct.pack(">IQI", 2, at, len(name) if length is None else length)
    return head.ljust(at, b"\0") + name


def test_a_name_beyond_the_header_or_the_limit_is_none() -> None:
    """What qemu refuses names nothing."""
    assert names_in(qcow2(b"base")) == ["base"]
    assert names_in(qcow2(b"base", length=0)) == []
    assert names_in(qcow2(b"x" * 1023)) == ["x" * 1023]
    assert names_in(qcow2(b"x" * 2000)) == []
    assert names_in(b"QFI\xfb" + b"\xff" * 16) == []


def test_a_vmdk_names_its_parent_in_its_descriptor() -> None:
    """In the text of one that is a text, and of one that has it inside."""
    text = b'# Disk DescriptorFile\nversion=1\nparentFileNameHint="base.vmdk"\n'
    assert names_in(text) == ["base.vmdk"]
    assert names_in(b"KDMV" + bytes(508) + text) == ["base.vmdk"]
    assert names_in(b"something else " + text) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("base", ["/pool/base"]),
        ("../other/base", ["/other/base"]),
        ("/abs/base", ["/abs/base"]),
        ("file:base", ["/pool/base"]),
        ("file:///abs/base", ["/abs/base"]),
        ("nbd://host/x", ["nbd://host/x"]),
        ("rbd:pool/image@snap:id=admin", ["rbd:pool/image"]),
        ('json:{"file.driver":"file","file.filename":"base"}', ["/pool/base"]),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/b"}}', ["/b"]),
        ('json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}', ["rbd:p/i"]),
        ('json:{"file.driver":"rbd","file.pool":"p","file.image":"i"}', ["rbd:p/i"]),
        ("json:{", []),
        ("json:" + '{"a":' * 5000, []),
    ],
)
def test_every_spelling_of_qemu_leads_to_the_place(name: str, found: list[str]) -> None:
    """Relative to the image's folder, as qemu reads it."""
    assert locations(name, FOLDER) == found


@given(st.binary(max_size=200), st.sampled_from([b"QFI\xfb\0\0\0\3", b"QED\0", b"KDMV", b""]))
def test_no_header_is_too_odd(tail: bytes, magic: bytes) -> None:
    """Hostile bytes name nothing or something, and never more than that."""
    for name in names_in(magic + tail):
        locations(name, FOLDER)


def test_a_chain_without_an_end_ends(tmp_path: Path) -> None:
    """Images that name each other, and one that names itself."""
    (tmp_path / "a").write_bytes(qcow2(b"b"))
    (tmp_path / "b").write_bytes(qcow2(b"a"))
    assert set(Headers().chain(tmp_path / "a")) == {f"{tmp_path}/a", f"{tmp_path}/b"}
    assert list(Headers().chain(tmp_path / "missing")) == []


def test_a_name_far_behind_the_header_is_found(tmp_path: Path) -> None:
    """It may lie anywhere in the first cluster, which has up to 2 MiB."""
    (tmp_path / "a").write_bytes(qcow2(b"base", at=(1 << 20) + 7))
    assert list(Headers().chain(tmp_path / "a")) == [f"{tmp_path}/base"]
    (tmp_path / "b").write_bytes(qcow2(b"base")[:8] + b"\xff" * 100)
    assert list(Headers().chain(tmp_path / "b")) == []


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image behind a failing disk may need anything."""
    (tmp_path / "a").write_bytes(b"x")

    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", failing)
    with pytest.raises(Unreadable, match="Input/output error"):
        list(Headers().chain(tmp_path / "a"))
