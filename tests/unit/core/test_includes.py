# SPDX-License-Identifier: Apache-2.0
"""Do the folders of the core include one another in one direction only?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[3] / "csrc"
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# The table of csrc/README.md: what the files of a folder may include besides each other.
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "http": {"base"},
    "net": {"base", "http"},
    "source": {"base", "http", "net"},
    "sink": {"base"},
    "decode": {"base", "sink"},
    "job": {"base", "decode", "net", "sink", "source"},
}


def included(text: str) -> list[str]:
    """What *text*, that of a C file, includes in quotes."""
    return INCLUDE.findall(text)


def parts_used(path: str, files: Mapping[str, str]) -> set[str]:
    """The parts that *path* leads to. A .c file and its header are one part, since what they call
    counts; a header without a .c file belongs to whoever includes it.
    """
    found: set[str] = set()
    for target in included(files[path]):
        if f"{target[:-2]}.c" in files:
            found.add(target[:-2])
        elif target in files and target != path:
            found |= parts_used(target, files)
    return found


def mistakes(files: Mapping[str, str]) -> list[str]:
    """What is wrong with the includes of *files* (path below csrc/ to text), a line each."""
    found = []
    for path, text in files.items():
        folder = path.partition("/")[0]
        for target in included(text):
            other = target.partition("/")[0]
            if target not in files:
                found.append(f"{path} includes {target}, which is not below csrc/")
            elif other != folder and other not in ALLOWED[folder]:
                found.append(f"{path} includes {target}: {folder} may not include {other}")
            elif target.endswith("_priv.h") and other != folder:
                found.append(f"{path} includes {target}, which is private to {other}")
    by_file = {path: set(included(text)) for path, text in files.items()}
    found += circles(by_file)
    if not found:
        by_part: dict[str, set[str]] = {}
        for path in files:
            if f"{path[:-2]}.c" in files:
                used = parts_used(path, files) - {path[:-2]}
                by_part.setdefault(path[:-2], set()).update(used)
        found += circles(by_part)
    return found


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """The first circle in *graph* as a line, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        return ["circle: " + " → ".join(circle.args[1])]
    return []


def test_includes_follow_the_table() -> None:
    """A reader can take a folder alone, with those below it; nothing comes back from above."""
    files = {
        str(path.relative_to(CSRC)): path.read_text()
        for path in sorted(CSRC.glob("*/*"))
        if path.suffix in {".c", ".h"}
    }
    assert {path.partition("/")[0] for path in files} == set(ALLOWED)
    assert mistakes(files) == []


def test_the_readme_shows_the_same_table() -> None:
    """The map is what people read."""
    rows = re.findall(r"^\| `(\w+)/` \|.*\|([^|]*)\|$", (CSRC / "README.md").read_text(), re.M)
    assert {name: set(re.findall(r"`(\w+)`", last)) for name, last in rows} == ALLOWED


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"base/a.h": '#include "sink/b.h"', "sink/b.h": ""}, "base may not include sink"),
        ({"job/a.h": '#include "job/b.h"', "job/b.h": '#include "job/a.h"'}, "circle"),
        (
            {
                "job/a.c": '#include "job/b.h"',
                "job/a.h": "",
                "job/b.c": '#include "job/a.h"',
                "job/b.h": "",
            },
            "circle",
        ),
        ({"job/a.c": '# include "sink/b_priv.h"', "sink/b_priv.h": ""}, "private to sink"),
        ({"base/a.c": '#include "zlib.h"'}, "not below csrc/"),
    ],
)
def test_a_wrong_include_is_found(files: dict[str, str], what: str) -> None:
    """A check that finds nothing may also be one that looks at nothing."""
    assert any(what in line for line in mistakes(files))
