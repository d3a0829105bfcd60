# SPDX-License-Identifier: Apache-2.0
"""What does ``scripts/release`` refuse, and what does it make of CHANGELOG.md?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fastdl import __version__
from scripts import releasing
from scripts.releasing import NotReady

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

### Added
- Something.

## [0.9.0] - 2026-01-31

### Fixed
- Something else.
"""


def test_what_was_unreleased_becomes_the_versions_section() -> None:
    """Nothing is lost, and the next change has a place."""
    made = releasing.released(CHANGELOG, "1.0.0", "2026-02-28")
    assert "## [Unreleased]\n\n## [1.0.0] - 2026-02-28\n\n### Added\n- Something.\n" in made
    assert releasing.sections(made) == {
        "Unreleased": "",
        "1.0.0": "### Added\n- Something.",
        "0.9.0": "### Fixed\n- Something else.",
    }


@pytest.mark.parametrize(
    ("version", "changelog", "why"),
    [
        ("0.9.0", CHANGELOG, "already has a section"),
        ("0.8.7", CHANGELOG, "newer than 0.8.7"),
        ("0.9.0rc1", CHANGELOG, "newer than 0.9.0rc1"),
        ("1.0.0", CHANGELOG.replace("### Added\n- Something.\n", ""), "says nothing"),
        ("1.0.0", CHANGELOG.replace("- Something.\n", ""), "says nothing"),
        ("1.0.0", CHANGELOG.replace("[Unreleased]", "[unreleased]"), "says nothing"),
    ],
)
def test_a_changelog_that_does_not_fit_is_refused(version: str, changelog: str, why: str) -> None:
    """A release whose changes nobody can read, or that is older than another one."""
    with pytest.raises(NotReady, match=why):
        releasing.released(changelog, version, "2026-02-28")


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "1.0.0rc0", ""])
def test_what_is_no_version_is_refused(version: str) -> None:
    """pip, dpkg and git would each make something else of it."""
    with pytest.raises(NotReady, match="is no version"):
        releasing.key(version)


def test_versions_are_ordered_with_candidates_before_their_release() -> None:
    """As numbers, not as text."""
    names = ["1.0.0", "0.10.0rc10", "0.9.0", "1.0.0rc1", "0.10.0", "0.10.0rc2"]
    assert sorted(names, key=releasing.key) == [
        "0.9.0",
        "0.10.0rc2",
        "0.10.0rc10",
        "0.10.0",
        "1.0.0rc1",
        "1.0.0",
    ]


def test_the_version_has_one_home() -> None:
    """The project's own files are as the script needs them."""
    source = (ROOT / releasing.HOME).read_text()
    assert f'\n__version__ = "{__version__}"\n' in source
    assert '__version__ = "999.0.0"' in releasing.with_version(source, "999.0.0")
    with pytest.raises(NotReady, match=r"newer than 0\.0\.1"):
        releasing.with_version(source, "0.0.1")
    releasing.check_one_home((ROOT / "pyproject.toml").read_text())
    with pytest.raises(NotReady, match="a version of its own"):
        releasing.check_one_home('[project]\nname = "x"\nversion = "1.0.0"\n')


def test_the_ledger_of_each_released_schema_is_kept() -> None:
    """Without it a migration that is edited later breaks upgrades, and no test fails."""
    releasing.check_ledgers(["0001_a.py", "0002_b.py"], ["0001.sql", "0002.sql"])
    with pytest.raises(NotReady, match="no ledger of schema 0002"):
        releasing.check_ledgers(["0001_a.py", "0002_b.py"], ["0001.sql"])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of this repository."""
    made = tmp_path / "clone"
    done = subprocess.run(
        ["git", "clone", "--quiet", "--shared", str(ROOT), str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"not a git checkout: {done.stderr}")
    return made


def release(clone: Path, *words: str) -> str:
    """Run the script, which must refuse; what it said."""
    done = subprocess.run(
        [clone / "scripts/release", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "TMPDIR": str(clone.parent)},
    )
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_a_tree_that_is_not_clean_is_no_release(clone: Path) -> None:
    """What is released must be what is committed; refusals change nothing."""
    git = ["git", "-C", str(clone)]
    head = subprocess.check_output([*git, "rev-parse", "HEAD"])
    assert "BASE_URL" in release(clone, "999.0.0", "ftp://example.org/")
    assert "is no version" in release(clone, "v999", "https://example.org/")
    subprocess.run([*git, "tag", "v999.0.0"], check=True)
    assert "v999.0.0 exists" in release(clone, "999.0.0", "https://example.org/")
    (clone / "new").write_text("not committed")
    assert "not committed" in release(clone, "999.0.1", "https://example.org/")
    assert subprocess.check_output([*git, "rev-parse", "HEAD"]) == head
    assert not (clone / "dist").exists()
    assert {path.name for path in clone.parent.iterdir()} == {"clone"}
