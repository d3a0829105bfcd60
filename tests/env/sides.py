# SPDX-License-Identifier: Apache-2.0
"""How does a test get a network with an inside and an outside? A namespace with addresses of
every class, a server that was typed, and one that takes every address and must not be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastdl.lab import metalink as lab
from tests.env.command import Outcome, run_fastdl
from tests.env.netns import Namespace
from tests.env.origin import FaultOrigin, Resource, pseudo_random

PUBLIC, PUBLIC_TOO, PRIVATE = "8.8.4.4", "9.9.9.10", "10.77.0.1"
METADATA, LINK_LOCAL = "169.254.169.254", "169.254.7.7"
ADDRESSES = (PUBLIC, PUBLIC_TOO, PRIVATE, METADATA, LINK_LOCAL)
HOSTS = {
    "mirror.test": "127.0.0.1",
    "inside.test": PRIVATE,
    "outside.test": PUBLIC_TOO,
    "mixed.test": f"{PRIVATE} {PUBLIC_TOO}",
}
NAMESERVER = "127.0.0.53"
IMAGE = pseudo_random(21, 700_001)


@dataclass(frozen=True, slots=True)
class Net:
    """The namespace, the server that was typed, and the one that must not be reached."""

    space: Namespace
    typed: FaultOrigin
    other: FaultOrigin
    folder: Path

    def get(self, url: str, *words: str) -> Outcome:
        command = ["get", url, "-o", str(self.folder / "pool" / "image.img"), "--json"]
        command += ["--progress", "none", "--retry", "1", "--connect-timeout", "2", *words]
        home = self.folder / "home"
        return run_fastdl(command, home=home, prefix=self.space.prefix, timeout=30)

    def url(self, host: str, path: str = "/image.raw") -> str:
        """*path* at *host* on the port of the server that takes every address."""
        return f"http://{host}:{self.other.port}{path}"

    def check_refused(self, outcome: Outcome) -> None:
        """POLICY, nothing written, and not even a connection."""
        assert (outcome.code, outcome.classes) == (15, ["POLICY"]), outcome
        assert self.other.connections == 0
        assert list((self.folder / "pool").iterdir()) == []

    def check_fetched(self, outcome: Outcome) -> None:
        """The image is there and right."""
        assert outcome.code == 0, outcome
        assert (self.folder / "pool" / "image.img").read_bytes() == IMAGE


def metalink(*urls: str) -> Resource:
    """A metalink that names *urls* as mirrors of the image."""
    document = lab.metalink("x", urls, size=len(IMAGE), ranked=False)
    return Resource.of(document.encode(), content_type="application/metalink4+xml")
