# SPDX-License-Identifier: Apache-2.0
"""Keystores whose import is killed, whose calls fail or come short, or whose power goes.

wrong    the file is whole, and holds the entries of before, with or without the new one
lost     after an exit of 0 it holds the new one
stuck    the same command, undisturbed, ends with 0
litter   nothing but the keystore and its lock is left
bug      as in ``downloads``
"""

from __future__ import annotations

import collections
import errno
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

from fastdl.errors import FastdlError
from fastdl.lab.certs import self_signed
from fastdl.trust.keystore import Keystore, Passphrase
from fastdl.trust.keystore.jks import Jks
from scripts.torturing.downloads import TIDIES, TIMEOUT_S, is_mute
from tests.env import seam, storage_log
from tests.env.command import Outcome
from tests.env.storage_log import Cut
from tests.env.warm import Warm

ERRNOS = (errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.ENOMEM, errno.EACCES)
STORES = ("jks", "pkcs12")
PASSPHRASE = "correct horse"  # noqa: S105 - of a keystore that lives for seconds
BEFORE, NEW = "first", "second"
COMMAND = ("keystore", "import", "--alias", NEW)


class Point(NamedTuple):
    """One experiment, as ``downloads.Point``; *part*, *writes* and *names* are a cut's."""

    act: str
    store: str
    call: str
    nth: int
    ever: bool
    part: float
    writes: str
    names: str
    dice: int


class Stores:
    """A folder, two keystores to begin with, and a certificate to import."""

    def __init__(self, folder: Path, command: Warm) -> None:
        self.folder = folder / "keystore"
        self.path = self.folder / "cloud.jks"
        self._home = folder / "home"
        self._command = command
        self._inputs = folder / "inputs"
        self._inputs.mkdir()
        (self._inputs / "pass").write_text(PASSPHRASE)
        (self._inputs / "pem").write_text(self_signed("second.example"))
        self._first = {store: self._made(store) for store in STORES}
        self._calls: dict[str, dict[str, int]] = {}

    def _made(self, store: str) -> bytes:
        path = self._inputs / store
        if store == "jks":
            path.write_bytes(Jks(version=2, slots=(), original=None).encode(PASSPHRASE))
        made = Keystore(path, Passphrase(PASSPHRASE))
        made.create()
        made.import_certificate(BEFORE, self_signed("first.example"))
        return path.read_bytes()

    def reset(self, store: str) -> None:
        """One keystore, with one entry, in an otherwise empty folder."""
        for folder in (self.folder, self._home):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.path.write_bytes(self._first[store])
        self.path.chmod(0o600)

    def run(self, seam_words: Mapping[str, str] | None = None) -> Outcome:
        """The import, as the seam has it."""
        words = [*COMMAND, "--keystore", str(self.path), "--cert", str(self._inputs / "pem"),
                 "--pass-file", str(self._inputs / "pass")]  # fmt: skip
        return self._command.run(words, home=self._home, seam_words=seam_words, timeout=TIMEOUT_S)

    def calls(self, store: str) -> dict[str, int]:
        """How many calls of each name an undisturbed import makes."""
        if store not in self._calls:
            self.reset(store)
            log = self.folder.with_name("log")
            log.unlink(missing_ok=True)
            assert self.run(seam.environment(log=log)).code == 0
            names = [call.name for call in seam.calls(log)]
            self._calls[store] = {**collections.Counter(names), "*": len(names)}
        return self._calls[store]


def drawn(stores: Stores, rng: Random) -> Point:
    """A point."""
    store = rng.choice(STORES)
    counts = stores.calls(store)
    act, call = rng.choice(("kill", "kill", "cut", "cut", "fail", "fail", "short")), "*"
    if act == "fail":
        act = f"fail-{rng.choice(ERRNOS)}"
        call = rng.choice(sorted(counts.keys() - {"*", "exit"}))
    elif act == "short":
        call = rng.choice([name for name in ("write", "read") if name in counts])
    ever = not act.startswith("fail-4") and act not in ("kill", "cut") and rng.random() < 0.5
    return Point(
        act, store, call, rng.randint(1, counts[call]), ever, rng.random(),
        rng.choice(storage_log.WRITES), rng.choice(storage_log.NAMES), rng.getrandbits(32),
    )  # fmt: skip


def tried(stores: Stores, point: Point) -> list[str]:
    """Run *point*; what does not hold."""
    stores.reset(point.store)
    if point.act == "cut":
        _cut(stores, point)
        found = _checked(stores, None)
    else:
        do = point.act.removeprefix("fail-")
        words = seam.environment(nth=point.nth, call=point.call, do=do, ever=point.ever)
        ended = stores.run(words)
        found = _checked(stores, ended, mute=is_mute(point.act, point.call))
        if point.act == "short" and ended.code:
            found.append(f"failed: {ended.code} {ended.stderr.strip()[-200:]}")
    if point.call in TIDIES and not found:
        return found
    done = stores.run()
    if done.code:
        return [*found, f"stuck: {done.code} {done.stderr.strip()[-200:]}"]
    left = {path.name for path in stores.folder.iterdir()} - {"cloud.jks", ".cloud.jks.lock"}
    litter = [f"litter: {', '.join(sorted(left))}"] if left else []
    return found + _checked(stores, done) + litter


def _cut(stores: Stores, point: Point) -> None:
    log = stores.folder.with_name("record")
    start = storage_log.snapshot([stores.folder], [])
    assert stores.run(seam.environment(record=log)).code == 0
    entries = [
        entry
        for entry in storage_log.entries(log)
        if entry.kind not in "CRLUMX"
        or (entry.second or entry.first).startswith(f"{stores.folder}/")
    ]
    cut = Cut(start, entries, round(point.part * len(entries)), names=point.names)
    rng = Random(point.dice)  # noqa: S311 - to be drawn again
    storage_log.restore(cut.tree(rng, writes=point.writes), [stores.folder])


def _checked(stores: Stores, done: Outcome | None, *, mute: bool = False) -> list[str]:
    """What is wrong after a run, or a cut."""
    try:
        held = {item.alias for item in Keystore(stores.path, Passphrase(PASSPHRASE)).items()}
    except FastdlError as exc:
        return [f"wrong: {exc}"]
    found = [] if held in ({BEFORE}, {BEFORE, NEW}) else [f"wrong: it holds {sorted(held)}"]
    if done is None or done.code == -signal.SIGKILL:
        return found
    if done.code == 0:
        return found if NEW in held else [*found, "lost: exit 0 without the entry"]
    if "a bug in fastdl" in done.stderr or "Traceback" in done.stderr:
        found.append(f"bug: {done.stderr.strip()[-200:]}")
    elif len(done.classes) != 1 and not mute:
        found.append(f"bug: {len(done.classes)} classes, exit {done.code}")
    return found
