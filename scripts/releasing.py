# SPDX-License-Identifier: Apache-2.0
"""May this become a release, and what does CHANGELOG.md say of it?

Part of ``scripts/release``: ``python -m scripts.releasing VERSION DATE`` checks the tree in the
current folder and makes it that version's: the version in ``src/fastdl/__init__.py``, its section
in CHANGELOG.md. ``--notes VERSION`` prints the section of a version.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

CHANGELOG = Path("CHANGELOG.md")
HOME = Path("src/fastdl/__init__.py")
"""The only file that says which version this is."""
LEDGERS = Path("tests/vectors/ledgers")
MIGRATIONS = Path("src/fastdl/manager/ledger/migrations/versions")

_VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})(?:rc([1-9]\d{0,3}))?")
_ASSIGNED = re.compile(r'^__version__ = "([^"]*)"$', re.MULTILINE)
_SECTION = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?\n", re.MULTILINE)


class NotReady(Exception):
    """Why this tree is no release."""


def key(version: str) -> tuple[int, int, int, int]:
    """What versions are ordered by; NotReady if *version* is not X.Y.Z or X.Y.ZrcN."""
    found = _VERSION.fullmatch(version)
    if not found:
        raise NotReady(f"{version!r} is no version: X.Y.Z, or X.Y.ZrcN for a candidate")
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch), int(candidate) if candidate else 10**6


def sections(changelog: str) -> dict[str, str]:
    """Version (or Unreleased) → what is written of it, in the order of the file."""
    heads = list(_SECTION.finditer(changelog))
    ends = [head.start() for head in heads[1:]] + [len(changelog)]
    return {h[1]: changelog[h.end() : end].strip() for h, end in zip(heads, ends, strict=True)}


def released(changelog: str, version: str, date: str) -> str:
    """Return the changelog in which what was unreleased is *version*, of *date*.

    NotReady if nothing is written about it, or something was before.
    """
    found = sections(changelog)
    if version in found:
        raise NotReady(f"{CHANGELOG} already has a section [{version}]")
    if "- " not in found.get("Unreleased", ""):
        raise NotReady(f"{CHANGELOG} says nothing under [Unreleased]: what is in {version}?")
    newest = max((key(name) for name in found if name != "Unreleased"), default=None)
    if newest is not None and key(version) <= newest:
        raise NotReady(f"{CHANGELOG} has a version that is newer than {version}")
    head = "## [Unreleased]\n"
    return changelog.replace(head, f"{head}\n## [{version}] - {date}\n", 1)


def with_version(source: str, version: str) -> str:
    """Return the source of ``fastdl/__init__.py`` as that of *version*; NotReady if it is older."""
    found = _ASSIGNED.findall(source)
    if len(found) != 1:
        raise NotReady(f"{HOME} assigns __version__ {len(found)} times")
    if key(version) < key(found[0]):
        raise NotReady(f"{HOME} says {found[0]}, which is newer than {version}")
    return _ASSIGNED.sub(f'__version__ = "{version}"', source)


def check_one_home(pyproject: str) -> None:
    """NotReady if pyproject.toml has a version of its own."""
    project = tomllib.loads(pyproject)["project"]
    if "version" in project or "version" not in project.get("dynamic", ()):
        raise NotReady(f"pyproject.toml has a version of its own: {HOME} is its home")


def check_ledgers(migrations: list[str], ledgers: list[str]) -> None:
    """NotReady unless a ledger of the newest schema is kept, for later versions to start from."""
    newest = max(name[:4] for name in migrations)
    if not any(name.startswith(newest) for name in ledgers):
        raise NotReady(
            f"{LEDGERS} has no ledger of schema {newest}: python -m scripts.ledgers {newest}"
        )


def prepare(version: str, date: str) -> None:
    """Make the tree in the current folder that of *version*."""
    key(version)
    check_one_home(Path("pyproject.toml").read_text())
    check_ledgers(
        [path.name for path in MIGRATIONS.glob("[0-9]*.py")],
        [path.name for path in LEDGERS.glob("*.sql")],
    )
    changelog = released(CHANGELOG.read_text(), version, date)
    source = with_version(HOME.read_text(), version)
    CHANGELOG.write_text(changelog)
    HOME.write_text(source)


def main(arguments: list[str]) -> int:
    """``releasing VERSION DATE`` or ``releasing --notes VERSION``."""
    try:
        if arguments[0] == "--notes":
            print(sections(CHANGELOG.read_text())[arguments[1]])
        else:
            prepare(*arguments)
    except NotReady as exc:
        print(f"release: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
