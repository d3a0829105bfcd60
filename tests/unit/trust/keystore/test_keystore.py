# SPDX-License-Identifier: Apache-2.0
"""Does the host's keystore change exactly as asked, atomically, and by nobody's loss? (K05-K11)"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastdl.errors import (
    AliasConflictError,
    ApiParamError,
    CertRejectedError,
    KeystoreAuthError,
    KeystoreCorruptError,
    SinkRefusedError,
    SinkSpaceError,
    TrustError,
)
from fastdl.sinks import syscalls
from fastdl.trust.alias import fold
from fastdl.trust.certificate import read_bundle
from fastdl.trust.keystore import (
    Keystore,
    Passphrase,
    check_alias,
    load_anchors,
    store,
)
from fastdl.trust.keystore.entry import Document
from fastdl.trust.keystore.store import StoreFile
from tests.env.certs import CertLab

from .conftest import PASSPHRASE


def _aliases(keystore: Keystore) -> list[str]:
    return [item.alias.lower() for item in keystore.items()]


def _path(keystore: Keystore) -> Path:
    return keystore._file.path


def test_import_list_delete(keystore: Keystore, mirror_pem: str) -> None:
    """The three actions, each idempotent: repeating a command is success without a change."""
    assert keystore.import_certificate("Mirror.1", mirror_pem)
    before = _path(keystore).read_bytes()
    assert not keystore.import_certificate("MIRROR.1", mirror_pem)
    assert _path(keystore).read_bytes() == before
    (item,) = keystore.items()
    assert item.kind == "trusted"
    assert item.certificate is not None
    assert item.certificate.subject == "CN=self-signed"
    assert keystore.anchors() == (mirror_pem,)
    assert keystore.delete("mirror.1")
    assert not keystore.delete("mirror.1")
    assert keystore.items() == []


def test_an_alias_with_another_certificate_conflicts(
    keystore: Keystore, mirror_pem: str, other_pem: str
) -> None:
    """K07: trust is never replaced in passing, in whatever case the alias is written."""
    keystore.import_certificate("mirror", mirror_pem)
    before = _path(keystore).read_bytes()
    with pytest.raises(AliasConflictError):
        keystore.import_certificate("MIRROR", other_pem)
    assert _path(keystore).read_bytes() == before
    assert keystore.import_certificate("mirror", other_pem, replace=True)
    assert keystore.anchors() == (other_pem,)


def test_a_bundle_comes_and_goes_as_one(keystore: Keystore, certs: CertLab) -> None:
    """Each certificate of a bundle is an anchor; revoking the alias leaves none behind."""
    chain = certs.leaf("with-intermediate").chain.read_text()
    keystore.import_certificate("mirror", chain)
    keystore.import_certificate("mirror.2", certs.ca.cert_file.read_text())
    assert sorted(_aliases(keystore)) == ["mirror", "mirror#2", "mirror.2"]
    assert not keystore.import_certificate("mirror", chain)
    assert keystore.delete("mirror")
    assert _aliases(keystore) == ["mirror.2"]


@pytest.mark.parametrize("alias", ["cloud", "Cloud", "cloudca", "CLOUDCA1", "cloudca-x"])
def test_reserved_aliases_are_neither_set_nor_deleted(keystore: Keystore, alias: str) -> None:
    """K07: they hold the agent's own identity."""
    with pytest.raises(AliasConflictError):
        keystore.import_certificate(alias, "never read")
    with pytest.raises(AliasConflictError):
        keystore.delete(alias)


@pytest.mark.parametrize(
    "alias", ["", " a", "a ", "x" * 256, "a\n", "a\0b", "a\tb", "\u202eevil", "a#2", "#10"]
)
def test_aliases_outside_the_grammar_are_refused(alias: str) -> None:
    """K07: an alias reaches logs, lists and other programs."""
    with pytest.raises(ApiParamError):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["../x", "a/b", "-x", "Site B", "x" * 255, "Größe", "😀", "a#b"])
def test_aliases_as_cloudstack_has_them(keystore: Keystore, mirror_pem: str, alias: str) -> None:
    """Any name that is text: it is never part of a file's name."""
    assert keystore.import_certificate(alias, mirror_pem + mirror_pem)
    assert [fold(item.alias) for item in keystore.items() if item.kind == "trusted"][-1] == fold(
        alias
    )
    assert keystore.delete(alias)


def test_a_rejected_certificate_leaves_the_file_alone(keystore: Keystore, certs: CertLab) -> None:
    """K08: refusal comes before the file is opened for writing."""
    before = _path(keystore).read_bytes()
    with pytest.raises(CertRejectedError):
        keystore.import_certificate("old", certs.leaf("expired").cert_file.read_text())
    assert _path(keystore).read_bytes() == before


def test_the_inventory_row_has_the_documented_fields(keystore: Keystore, mirror_pem: str) -> None:
    """Scripts read these names."""
    keystore.import_certificate("mirror", mirror_pem)
    row = keystore.items()[0].to_dict()
    assert list(row) == [
        "alias",
        "sha256",
        "subject",
        "issuer",
        "not_before",
        "not_after",
        "kind",
    ]
    assert len(row["sha256"]) == 64
    assert row["not_before"].endswith("+00:00")


def test_a_missing_store_is_created_private(tmp_path: Path, mirror_pem: str) -> None:
    """K03: the first certificate may come before anyone made a keystore."""
    path = tmp_path / "cloud.jks"
    old = os.umask(0)
    try:
        Keystore(path, Passphrase(PASSPHRASE)).import_certificate("mirror", mirror_pem)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_mode_owner_and_attributes_survive_an_update(keystore: Keystore, mirror_pem: str) -> None:
    """K06: a group that may read the store, or its label, must not lose it."""
    path = _path(keystore)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 23_456)
    attributes = True
    try:
        os.setxattr(path, "user.label", b"kept")
    except OSError:
        attributes = False
    before = path.stat()
    keystore.import_certificate("mirror", mirror_pem)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    if attributes:
        assert os.getxattr(path, "user.label") == b"kept"


def test_no_update_leaves_a_temporary_file(keystore: Keystore, mirror_pem: str) -> None:
    """K06: what a crash left is swept by the next update, under the lock."""
    path = _path(keystore)
    leftover = path.parent / f".{path.name}.abc123.tmp"
    leftover.write_bytes(b"half a keystore")
    keystore.import_certificate("mirror", mirror_pem)
    assert {p.name for p in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}


def test_a_symlinked_store_is_read_but_not_replaced(keystore: Keystore, mirror_pem: str) -> None:
    """K11: a rename would cut the link, a write through it would land who knows where."""
    path = _path(keystore)
    real = path.parent / "elsewhere"
    path.rename(real)
    path.symlink_to(real)
    before = real.read_bytes()
    assert keystore.items() == []
    with pytest.raises(SinkRefusedError):
        keystore.import_certificate("mirror", mirror_pem)
    assert real.read_bytes() == before
    assert path.is_symlink()


def test_a_full_disk_leaves_the_store_as_it_was(
    keystore: Keystore, mirror_pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K11: the error is the class for space, and no temporary file stays."""
    before = _path(keystore).read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(SinkSpaceError):
        keystore.import_certificate("mirror", mirror_pem)
    monkeypatch.undo()
    assert _path(keystore).read_bytes() == before
    assert not list(_path(keystore).parent.glob("*.tmp"))


def test_a_change_between_reading_and_renaming_is_merged(
    keystore: Keystore, mirror_pem: str, other_pem: str
) -> None:
    """K05: a program that takes no lock is noticed, and the edit is made again on its result."""
    file = StoreFile(_path(keystore), Passphrase(PASSPHRASE))
    rounds: list[int] = []
    foreign = Keystore(_path(keystore).parent / "foreign", Passphrase(PASSPHRASE))
    (_path(keystore).parent / "foreign").write_bytes(_path(keystore).read_bytes())
    foreign.import_certificate("theirs", other_pem)

    def edit(document: Document) -> Document:
        if not rounds:
            _path(keystore).write_bytes(_path(foreign).read_bytes())
        rounds.append(len(document.entries()))
        return document.with_trusted("ours", keystore_der, now_ms=0)

    keystore_der = read_bundle(mirror_pem)[0].der
    assert file.update(edit)
    assert rounds == [0, 1]
    assert sorted(_aliases(keystore)) == ["ours", "theirs"]


@pytest.mark.parametrize("moment", ["before", "open"])
def test_a_change_at_the_moment_of_the_exchange_is_merged(
    keystore: Keystore,
    mirror_pem: str,
    other_pem: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """K05: also by a program that has opened and emptied the file, and writes it afterwards."""
    path, real, calls = _path(keystore), syscalls.exchange, []
    foreign = Keystore(path.with_name("foreign"), Passphrase(PASSPHRASE))
    _path(foreign).write_bytes(path.read_bytes())
    foreign.import_certificate("theirs", other_pem)

    def exchange(folder_fd: int, one: str, other: str) -> bool:
        calls.append(one)
        if len(calls) > 1:
            return real(folder_fd, one, other)
        with path.open("r+b") as file:
            file.truncate()
            if moment == "before":
                file.write(_path(foreign).read_bytes())
            done = real(folder_fd, one, other)
            if moment == "open":
                threading.Timer(0.1, _write_late, (os.dup(file.fileno()), foreign)).start()
        return done

    monkeypatch.setattr(syscalls, "exchange", exchange)
    assert keystore.import_certificate("ours", mirror_pem)
    assert len(calls) == 3
    assert sorted(_aliases(keystore)) == ["ours", "theirs"]
    assert not list(path.parent.glob(".*.tmp"))


def _write_late(fd: int, foreign: Keystore) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(_path(foreign).read_bytes())


def test_a_store_is_replaced_where_names_cannot_be_exchanged(
    keystore: Keystore, mirror_pem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and some FUSE file systems."""
    monkeypatch.setattr(syscalls, "exchange", lambda *_: False)
    assert keystore.import_certificate("mirror", mirror_pem)
    assert _aliases(keystore) == ["mirror"]


def test_a_store_that_another_program_creates_meanwhile_is_merged(
    tmp_path: Path,
    keystore: Keystore,
    other_pem: str,
    mirror_pem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """K05: at the moment at which we would create it."""
    keystore.import_certificate("theirs", other_pem)
    made, real = Keystore(tmp_path / "new.p12", Passphrase(PASSPHRASE)), syscalls.rename_new

    def rename_new(folder_fd: int, old: str, new: str) -> bool:
        monkeypatch.undo()
        (tmp_path / "new.p12").write_bytes(_path(keystore).read_bytes())
        return real(folder_fd, old, new)

    monkeypatch.setattr(syscalls, "rename_new", rename_new)
    assert made.import_certificate("ours", mirror_pem)
    assert sorted(_aliases(made)) == ["ours", "theirs"]


def test_no_writer_is_lost_among_threads_and_processes(
    keystore: Keystore, certs: CertLab, mirror_pem: str
) -> None:
    """K05: 64 writers at once, and every certificate is there afterwards."""
    path = _path(keystore)
    pass_file = path.parent / "pass"
    pass_file.write_text(PASSPHRASE + "\n")
    program = (
        "import sys\n"
        "from fastdl.trust.keystore import Keystore, read_passphrase\n"
        "k = Keystore(sys.argv[1], read_passphrase(sys.argv[2]))\n"
        "for n in range(8): k.import_certificate(f'p{sys.argv[4]}-{n}', open(sys.argv[3]).read())\n"
    )
    pem = certs.leaf("self-signed").cert_file
    processes = [
        subprocess.Popen([sys.executable, "-c", program, path, pass_file, pem, str(n)])
        for n in range(4)
    ]
    threads = [
        threading.Thread(target=keystore.import_certificate, args=(f"t{n}", mirror_pem))
        for n in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    expected = {f"t{n}" for n in range(32)} | {f"p{p}-{n}" for p in range(4) for n in range(8)}
    assert set(_aliases(keystore)) == expected


@pytest.mark.parametrize("damage", ["missing", "garbage", "wrong passphrase", "no pass file"])
def test_anchors_of_an_unreadable_store_fail_closed(
    tmp_path: Path, mirror_pem: str, damage: str
) -> None:
    """T15: a broken keystore stops https, it never weakens it."""
    path, pass_file = tmp_path / "cloud.jks", tmp_path / "pass"
    pass_file.write_text(PASSPHRASE)
    Keystore(path, Passphrase(PASSPHRASE)).import_certificate("mirror", mirror_pem)
    assert load_anchors(path, pass_file) == (mirror_pem,)
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "wrong passphrase":
        pass_file.write_text("something else\n")
    else:
        pass_file.unlink()
    with pytest.raises(TrustError):
        load_anchors(path, pass_file)


def test_reading_a_missing_or_locked_store_names_the_cause(tmp_path: Path) -> None:
    """K01, K03: one class each for what is missing and for a passphrase that does not fit."""
    keystore = Keystore(tmp_path / "none.jks", Passphrase(PASSPHRASE))
    with pytest.raises(KeystoreCorruptError, match="no keystore"):
        keystore.items()
    keystore.create()
    with pytest.raises(KeystoreAuthError):
        Keystore(tmp_path / "none.jks", Passphrase("wrong")).items()


def test_a_passphrase_does_not_show_in_text() -> None:
    """T18: neither logs nor tracebacks print it."""
    assert PASSPHRASE not in repr(Passphrase(PASSPHRASE))
