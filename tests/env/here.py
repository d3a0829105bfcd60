# SPDX-License-Identifier: Apache-2.0
"""How does a test run ``fastdl get`` as a user does: in a folder, with short words?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.env.command import Outcome, run_fastdl
from tests.env.origin import Resource


class Here:
    """An empty current folder, and the command in it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "here"
        self.path.mkdir()
        self.home = tmp_path / "home"

    def get(self, *words: str | Path, timeout: float = 60) -> Outcome:
        """``fastdl get WORDS...``."""
        typed = ["get", *map(str, words)]
        return run_fastdl(typed, home=self.home, cwd=self.path, timeout=timeout)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes | str) -> Path:
        path = self.path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def names(self) -> list[str]:
        """What lies in the folder, hidden files included."""
        return sorted(path.name for path in self.path.iterdir())


def sha256(data: bytes) -> str:
    """As ``--checksum`` takes it."""
    return f"sha-256:{hashlib.sha256(data).hexdigest()}"


def metalink(*files: tuple[str, str, bytes]) -> Resource:
    """A version 4 document of (name, URL, content)."""
    inner = "".join(
        f'<file name="{name}"><size>{len(data)}</size>'
        f'<hash type="sha-256">{hashlib.sha256(data).hexdigest()}</hash><url>{url}</url></file>'
        for name, url, data in files
    )
    text = f'<metalink xmlns="urn:ietf:params:xml:ns:metalink">{inner}</metalink>'
    return Resource.of(text.encode(), content_type="application/metalink4+xml")
