# SPDX-License-Identifier: Apache-2.0
"""Is a pool's folder what it was, and does nothing planted in it lead the agent elsewhere?"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastdl.agent.pools import DirectoryPool, Image, Marker, Memory, State, Volume, folder
from fastdl.errors import FastdlError, SinkIOError, SinkRefusedError

VOLUME = Volume("v")


def pool(path: Path, state: Path) -> DirectoryPool:
    """The folder as a pool of a host with that state."""
    return DirectoryPool(path, name="p", memory=Memory(state))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "pool"
    made.mkdir()
    return made


def test_looks_at_the_same_time_forget_no_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each look has a memory of its own, and an inventory looks while a job does."""
    folders = [tmp_path / f"p{n}" for n in range(24)]
    state = tmp_path / "state"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda path: Memory(state).keep(path, path.name), folders))
    assert [Memory(state).of(path) for path in folders] == [path.name for path in folders]
    assert not caplog.records


def test_an_empty_folder_in_the_place_of_a_known_one_is_no_pool(
    place: Path, tmp_path: Path
) -> None:
    """A mount point without its mount: nothing is made in it, and the id stays known."""
    id_ = pool(place, tmp_path).id
    shutil.rmtree(place / ".fastdl")
    away = pool(place, tmp_path)
    info = away.info()
    assert info.id == id_
    assert "is its storage mounted?" in (info.error or "")
    for use in (
        lambda: away.markers.lock("v").__enter__(),
        lambda: away.markers.read("v"),
        lambda: away.place(VOLUME, Image()).__enter__(),
        lambda: away.inspect(VOLUME, None),
        lambda: away.discard(VOLUME),
    ):
        with pytest.raises(SinkIOError) as caught:
            use()
        assert caught.value.retryable
        assert caught.value.retry_elsewhere
    assert list(place.iterdir()) == []


def test_another_pools_storage_in_its_place_is_told(place: Path, tmp_path: Path) -> None:
    """Two mounts that were exchanged."""
    other = tmp_path / "other"
    other.mkdir()
    assert pool(place, tmp_path).id != pool(other, tmp_path).id
    shutil.rmtree(place / ".fastdl")
    shutil.copytree(other / ".fastdl", place / ".fastdl")
    assert "is another pool's" in (pool(place, tmp_path).info().error or "")


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """Not by the lock, which comes first, either."""
    gone = DirectoryPool(tmp_path / "a" / "b", name="p", pool_id="x")
    with pytest.raises(SinkIOError, match="there is no folder"):
        gone.markers.lock("v").__enter__()
    assert not (tmp_path / "a").exists()


def test_a_mount_that_fstab_wants_is_missed_the_first_time(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that was booted without its storage, and never saw it before."""
    fstab = tmp_path / "fstab"
    fstab.write_text(f"# comment\nserver:/x {tmp_path} nfs defaults 0 0\n")
    monkeypatch.setattr(folder, "_FSTAB", fstab)
    assert "is not mounted, as /etc/fstab wants it" in (pool(place, tmp_path).info().error or "")
    assert list(place.iterdir()) == []
    fstab.write_text(f"/dev/sda1 / ext4\nserver:/x {tmp_path}/poolside nfs\nbroken\n")
    assert pool(place, tmp_path).info().error is None


def test_a_memory_that_cannot_be_kept_is_no_obstacle(place: Path, tmp_path: Path) -> None:
    """A damaged file is as good as none; a state folder that cannot be made neither."""
    (tmp_path / "pools.json").write_text("[")
    assert pool(place, tmp_path).info().error is None
    (tmp_path / "file").touch()
    assert pool(place, tmp_path / "file" / "state").info().error is None


def test_links_are_not_followed(place: Path, tmp_path: Path) -> None:
    """.fastdl, the folders in it, a marker, a lock, the volume itself: what is behind a link
    stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (outside / "pool").write_text((_noted(place) / "pool").read_text())
    for planted in (
        [(".fastdl", outside)],
        [(".fastdl/new", outside)],
        [(".fastdl/going", outside)],
        [(".fastdl/v.json", outside / "precious")],
        [(".fastdl/.v.lock", outside / "precious")],
        [("v", outside / "precious")],
    ):
        shutil.rmtree(place)
        place.mkdir()
        _noted(place)
        for name, target in planted:
            if name == ".fastdl":
                shutil.rmtree(place / name)
            (place / name).symlink_to(target)
        here = DirectoryPool(place, name="p", pool_id="x")
        for use in (
            lambda here=here: here.markers.lock("v").__enter__(),
            lambda here=here: here.markers.write(Marker(volume="v")),
            lambda here=here: here.markers.delete("v"),
            lambda here=here: here.place(VOLUME, Image()).__enter__(),
            lambda here=here: here.discard(VOLUME),
            lambda here=here: here.remove(VOLUME, Marker(volume="v"), used=lambda _: ()),
        ):
            try:
                use()
            except FastdlError:
                continue
        assert (outside / "precious").read_text() == "precious"
        assert sorted(p.name for p in outside.iterdir()) == ["pool", "precious"]


def _noted(place: Path) -> Path:
    DirectoryPool(place, name="p", pool_id="x").info()
    return place / ".fastdl"


def test_nothing_waits_for_a_fifo(place: Path) -> None:
    """In the place of the marker, of the lock, and of the volume."""
    hidden = _noted(place)
    here = DirectoryPool(place, name="p", pool_id="x")
    os.mkfifo(hidden / "v.json")
    os.mkfifo(hidden / ".v.lock")
    os.mkfifo(place / "v")
    assert here.markers.read("v") is None
    with pytest.raises(FastdlError):
        here.markers.lock("v").__enter__()
    assert here.inspect(VOLUME, None).state is State.FOREIGN


def test_a_name_that_somebody_took_meanwhile_is_not_taken_from_them(place: Path) -> None:
    """Between the look and the last step."""
    here = DirectoryPool(place, name="p")
    with here.place(VOLUME, Image(source_size=4)) as placement:
        Path(placement.target).write_bytes(b"ours")
    marker = here.seal(VOLUME, Marker(volume="v", complete=True))
    here.markers.write(marker)
    (place / "v").write_text("theirs")
    with pytest.raises(SinkRefusedError, match="appeared in the meantime"):
        here.publish(VOLUME, marker, replace=False)
    assert (place / "v").read_text() == "theirs"


def test_a_changed_copy_says_how_it_changed(place: Path) -> None:
    """Cut, written to, replaced by another file; the marker tells them apart."""
    here = DirectoryPool(place, name="p")
    with here.place(VOLUME, Image(source_size=4)) as placement:
        Path(placement.target).write_bytes(b"ours")
    marker = here.seal(VOLUME, Marker(volume="v", complete=True))
    here.markers.write(marker)
    here.publish(VOLUME, marker, replace=False)
    assert here.inspect(VOLUME, marker).state is State.INTACT
    path = place / "v"
    with path.open("r+b") as file:
        file.write(b"else")
    os.utime(path, ns=(1, marker.mtime_ns + 1))
    found = here.inspect(VOLUME, marker)
    assert (found.state, found.ours) == (State.CHANGED, True)
    assert "written to" in found.why
    os.truncate(path, 1)
    assert "it has 1 bytes, 4 were published" in here.inspect(VOLUME, marker).why
    path.rename(place / "aside")
    path.write_bytes(b"x" * 9)
    found = here.inspect(VOLUME, marker)
    assert (found.state, found.ours) == (State.CHANGED, False)
    path.unlink()
    path.mkdir()
    assert here.inspect(VOLUME, marker).state is State.FOREIGN
    path.rmdir()
    assert here.inspect(VOLUME, marker).state is State.ABSENT


@pytest.mark.parametrize(
    "lie", [{"size": True}, {"inode": "1"}, {"mtime_ns": None}, {"zone": 1}, {"complete": 1}]
)
def test_a_marker_with_a_wrong_type_is_none(tmp_path: Path, lie: dict[str, object]) -> None:
    """Whoever can write to the folder can write anything into it."""
    here = DirectoryPool(tmp_path, name="p")
    here.markers.write(Marker(volume="v", complete=True))
    path = tmp_path / ".fastdl" / "v.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    assert here.markers.read("v") is None
