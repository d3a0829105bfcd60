# SPDX-License-Identifier: Apache-2.0
"""What does a contestant have to tell about itself?"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.meter import Command, Step
from benchmarks.payload import Payload
from benchmarks.scenarios import Scenario
from benchmarks.targets import Target

CONNECTIONS: Final = 8  # what a rival gets where the scenario names no number


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run: *image* from *urls* (mirrors of the same bytes) to *target*.

    ``scratch`` is an empty folder on the same file system as a file target.
    """

    scenario: Scenario
    urls: Sequence[str]
    target: Target
    image: Payload
    cacert: Path
    scratch: Path
    metalink: Path | None = None

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def source_bytes(self) -> int:
        return self.image.source_bytes

    @property
    def sha256(self) -> str:
        """The digest of the source, in hex."""
        return self.image.sha256

    @property
    def connections(self) -> int:
        return self.scenario.connections or CONNECTIONS

    @property
    def hashed(self) -> bool:
        return self.scenario.digest != "none"

    @property
    def tls(self) -> bool:
        return self.scenario.scheme == "https"

    @property
    def curl_trust(self) -> tuple[str, ...]:
        return ("--cacert", str(self.cacert)) if self.tls else ()


class Rival(ABC):
    """A contestant. ``name`` is its word in results, ``needs`` the programs that it runs."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    version_of: ClassVar[tuple[str, ...]] = ()
    uses_mirrors: ClassVar[bool] = False

    def refuses(self, scenario: Scenario) -> str | None:
        """Why it takes no part in *scenario*, or None: a program is missing, or it cannot."""
        for program in self.needs:
            if not shutil.which(program, path=search_path()):
                return f"{program} is not installed"
        return self.cannot(scenario)

    def cannot(self, scenario: Scenario) -> str | None:
        """What of *scenario* is beyond it (it is skipped with this reason), or None."""
        return None

    @abstractmethod
    def steps(self, job: Job) -> list[Step]:
        """The commands, in order. Where ``job.hashed`` they must print or check the digest."""

    def versions(self) -> dict[str, str]:
        """The first line that each program says of its version."""
        return {name: first_line(name) for name in (self.version_of or self.needs)}


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def first_line(program: str) -> str:
    argv = [program, "version" if program == "openssl" else "--version"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return "missing"
    return (done.stdout or done.stderr).strip().split("\n", 1)[0][:120]


def step(*argv: str | Path, **extra: object) -> Step:
    """A step of a single command."""
    return Step(pipeline=(command(*argv, **extra),))


def command(*argv: str | Path, **extra: object) -> Command:
    return Command(argv=tuple(map(str, argv)), **extra)  # type: ignore[arg-type]


def openssl_digest(path: Path) -> Step:
    """A second pass over *path*; the digest lands in the output, where the suite checks it."""
    return step("openssl", "dgst", "-sha256", path)


def whole_file(scenario: Scenario) -> str | None:
    """For tools that only make files as they are: what is beyond them."""
    if scenario.target == "block":
        return "writes files only"
    return no_null(scenario)


def no_null(scenario: Scenario) -> str | None:
    return "has no null target" if scenario.target == "null" else None


def as_it_is(scenario: Scenario) -> str | None:
    """For tools that land bytes as they come, on files or devices."""
    return "does not convert images" if scenario.converts else no_null(scenario)
