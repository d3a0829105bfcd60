# SPDX-License-Identifier: Apache-2.0
"""No name leads out of the folder that it was meant for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import SinkRefusedError
from fastdl.sinks import paths, syscalls

UNSAFE = [
    "", ".", "..", "/", "a/b", "../a", "a\\b", "a\0b", ".bashrc", "~root", "-rf", "C:x", "c:",
    "a\nb", "a\rb", "a\x1b[2J", "a\u202eb", "a%2fb", "a%2Fb", "%2e%2e", "a%5cb", "a%00", "\udc80",
    "x" * 256, "é" * 128,
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_proposal_is_refused(name: str) -> None:
    """What a URL proposes is a stranger's text."""
    with pytest.raises(SinkRefusedError):
        paths.safe_name(name)


@pytest.mark.parametrize("name", ["disk.qcow2", "Ünïcode (1).img", "a..b", "100%.raw", "x" * 200])
def test_an_ordinary_name_is_kept(name: str) -> None:
    """Refusing too much would be a nuisance."""
    assert paths.safe_name(name) == name


@given(st.text(max_size=300))
def test_an_accepted_name_is_one_component(name: str) -> None:
    """Whatever is accepted joins to a child of the folder."""
    try:
        accepted = paths.safe_name(name)
    except SinkRefusedError:
        return
    assert os.path.dirname(os.path.normpath(f"/pool/{accepted}")) == "/pool"
    assert len(os.fsencode(paths.part_name(accepted))) <= 255


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool with a folder, a link out of it, and a link inside it."""
    pool = tmp_path / "pool"
    (pool / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (pool / "out").symlink_to(tmp_path / "outside")
    (pool / "in").symlink_to("sub")
    return pool


@pytest.mark.parametrize("where", ["", "sub", "sub/", "./sub", "sub/."])
def test_folders_beneath_the_pool_open(pool: Path, where: str) -> None:
    """By absolute and by relative names."""
    for path in (f"{pool}/{where}", where or "."):
        fd = paths.open_folder(path, policy="strict", beneath=str(pool))
        os.close(fd)


@pytest.mark.parametrize("where", ["out", "in", "sub/..", "..", "../outside", "out/..", "none"])
def test_nothing_leads_out_of_the_pool(pool: Path, where: str) -> None:
    """Links, dots and missing folders end in a refusal (S09)."""
    for path in (f"{pool}/{where}", where):
        with pytest.raises(SinkRefusedError):
            paths.open_folder(path, policy="strict", beneath=str(pool))


def test_a_pool_is_compared_by_components(pool: Path) -> None:
    """`/pool2` is not inside `/pool`."""
    (pool.parent / "pool2").mkdir()
    for path in (f"{pool}2", str(pool.parent), "/", "/etc"):
        with pytest.raises(SinkRefusedError):
            paths.open_folder(path, policy="user", beneath=str(pool))


def test_the_users_own_path_may_contain_links_and_the_strict_one_not(pool: Path) -> None:
    """What a person typed is that person's business; what a command named is not."""
    os.close(paths.open_folder(f"{pool}/out", policy="user", beneath=None))
    os.close(paths.open_folder(f"{pool}/sub", policy="strict", beneath=None))
    for bad in (f"{pool}/out", f"{pool}/in", f"{pool}/sub/..", f"/proc/self/cwd{pool}"):
        with pytest.raises(SinkRefusedError):
            paths.open_folder(bad, policy="strict", beneath=None)


def test_without_openat2_the_walk_refuses_the_same(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.6 get the same verdicts."""

    def absent(folder_fd: int, path: str, flags: int, resolve: int) -> int:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(syscalls, "openat2", absent)
    before = len(os.listdir("/proc/self/fd"))
    os.close(paths.open_folder(f"{pool}/sub", policy="strict", beneath=str(pool)))
    os.close(paths.open_folder(f"{pool}/sub", policy="strict", beneath=None))
    for bad in ("out", "in", "none", "out/x"):
        for beneath in (str(pool), None):
            with pytest.raises(SinkRefusedError):
                paths.open_folder(f"{pool}/{bad}", policy="strict", beneath=beneath)
    assert len(os.listdir("/proc/self/fd")) == before
