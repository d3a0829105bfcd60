# SPDX-License-Identifier: Apache-2.0
"""Does a confined process come by its code wherever that lies?"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fastdl
from fastdl.agent import confine, supplies

NOT_FOR_CONFINED = {
    "fastdl.agent.handshake",  # the worker loads it for the work that wants it
    "fastdl.engine.convert",  # the worker converts
    "fastdl.engine.described",  # no agent writes metalinks
    "fastdl.engine.request_log",  # nobody reads an agent's log of requests
    "fastdl.engine.source.products",  # an agent is given the file of a product
    "fastdl.model.address",  # the worker checks addresses
    "fastdl.sinks.block",  # the worker opens the target
    "fastdl.sinks.stream",  # no agent writes to standard output
    "fastdl.publishers.s3",  # an agent is given no object of a store
    "fastdl.publishers.signed_links",
    "fastdl.sources.metalink_made",
    "pwd",  # the agent looks users up
    "tomllib",  # the operator's rules come with the command
}
PARTS = ("fastdl.engine", "fastdl.sources", "fastdl.model", "fastdl.sinks", "fastdl.agent")
PROGRAM = """
import os, subprocess, sys
import fastdl.agent.worker
from fastdl.agent.confine import Powers, confine
from fastdl.agent.supplies import supplies_for_confined, load_all
from fastdl.agent import supplies
if sys.argv[1] == "all":
    load_all()
    print("\\n".join(sys.modules))
else:
    program = lambda: confine(Powers(ids=(66_001, 66_001), program=True))
    subprocess.run(["/bin/true"], preexec_fn=program, check=True)
    kept = supplies_for_confined()
    kept.apply()
    os.setresgid(66_001, 66_001, 66_001)
    os.setresuid(66_001, 66_001, 66_001)
    import fastdl.sources.metalink, fastdl.engine.landing.qcow2, fastdl.core.image, hashlib
    print(len(kept.descriptors))
"""


def _imports(path: Path, root: Path) -> set[str]:
    """The modules that the file at *path* imports somewhere, but for type checkers alone."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = root / node.module.replace(".", "/") / f"{alias.name}.py"
                found.add(f"{node.module}.{alias.name}" if inner.is_file() else node.module)
    return found


def test_what_is_loaded_before_is_all_that_is_imported_anywhere() -> None:
    """A rare import that is forgotten would fail where code is readable for root alone."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "all"], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    root = Path(fastdl.__file__).parents[1]
    missing: set[str] = set()
    for name in sorted(loaded):
        if not name.startswith(PARTS) or name == "fastdl.agent.worker":
            continue
        path = root / (name.replace(".", "/") + ".py")
        if path.is_file():
            missing |= _imports(path, root) - loaded
    assert missing == NOT_FOR_CONFINED


def test_confining_itself_imports_nothing() -> None:
    """In a fork of a process with threads, an import may wait for one that never ends."""
    tree = ast.parse(Path(confine.__file__).read_text(encoding="utf-8"))
    late = {
        name.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert late == {"pwd"}  # before the fork


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
@pytest.mark.parametrize(
    ("folder", "file", "kept"),
    [(0o755, 0o644, 0), (0o700, 0o644, 1), (0o755, 0o600, 0)],
    ids=["open to all", "below a folder of root's", "readable for root alone"],
)
def test_code_that_root_alone_can_reach_is_loaded_all_the_same(
    tmp_path: Path, folder: int, file: int, kept: int
) -> None:
    """A virtual environment in /root, or an installation under a strict umask: for a download, and
    for the tool that converts what it brought."""
    below = Path(tempfile.gettempdir())
    for parent in (tmp_path, *tmp_path.parents):
        if below in parent.parents:
            parent.chmod(0o755)
    copy = tmp_path / "private" / "src"
    shutil.copytree(Path(fastdl.__file__).parent, copy / "fastdl")
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else file)
    (tmp_path / "private").chmod(folder)
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", PROGRAM, "some"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(copy)},
    )
    assert done.returncode == 0, done.stderr
    others = sum(supplies._is_shut(entry) for entry in sys.path if str(tmp_path) not in entry)
    assert int(done.stdout) >= kept
    assert int(done.stdout) <= kept + others + 1
