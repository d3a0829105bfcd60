# SPDX-License-Identifier: Apache-2.0
"""Do the commands of the guides work as they stand, and print what the guides show?

Each guide is run in a sandbox (tests/env/sandbox.py) by tests/env/scenes.py, word for word.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.env import guide, sandbox, scenes
from tests.env.loopdev import loop_device
from tests.env.slow import slow

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "README.md": "scripts/bare-root runs it on a bare system",
    "docs/commands.md": "written from the commands' own help",
    "docs/coming-from.md": "tests/integration/test_coming_from.py runs each line",
    "docs/downloading.md": "tests/unit/test_repository.py and tests/integration/test_get_*.py",
    "docs/network.md": "tests/integration has a test for each proxy, certificate and odd server",
    "docs/publishers.md": "tests/integration has a test for each kind of list, signature and store",
}
"""Pages without a block that is run here or marked, and why."""
_WORDS = ("fastdl ", "sudo ", "curl ", "scripts/", "aria2c ", "wget2 ", "systemctl ")
_PLAY_S = 300


@slow
@pytest.mark.parametrize("page", sorted(scenes.SCENES))
def test_a_guide_does_what_it_says(page: str, tmp_path: Path) -> None:
    """Word for word, and what it prints is what the guide shows."""
    scene = scenes.SCENES[page]
    if why := sandbox.missing():
        pytest.skip(why)
    if scene.libvirt and shutil.which("libvirtd") is None:
        pytest.skip("libvirtd is not installed")
    with contextlib.ExitStack() as held:
        devices = [
            f"{name}={held.enter_context(loop_device(tmp_path, size=size)).path}"
            for name, size in scene.devices
        ]
        folder = tmp_path / "guide"
        folder.mkdir()
        words = [sys.executable, "-m", "tests.env.scenes", DOCS / page, folder, *devices]
        done = subprocess.run(
            [*sandbox.ENTER, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_PLAY_S,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def test_every_block_of_commands_is_run_or_says_why_not() -> None:
    """What nobody runs is wrong some day."""
    for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        name = str(path.relative_to(ROOT))
        if name in ELSEWHERE:
            continue
        for block in guide.blocks(path.read_text()):
            typed = block.commands or any(line.startswith(_WORDS) for line in block.text)
            if not typed or block.reason:
                continue
            where = f"{name}:{block.line}"
            assert block.language == "console", f"{where}: commands belong into a console block"
            assert path.name in scenes.SCENES, f"{where}: no test runs it, and no mark says why"


def test_a_guide_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    """A wrong output, a failed command, and what may vary."""
    shell = sandbox.Shell(tmp_path)

    def plays(text: str) -> bool:
        return scenes.play(guide.blocks(f"```console\n{text}\n```\n"), shell)

    assert plays("$ echo a b 12\na … 12\n$ printf '1\\n2\\n3\\n'\n…\n3")
    assert plays("$ cat <<END\nx\nEND\nx")
    assert plays("$ echo a \\\n    b\na b")
    assert plays("$ false; echo $?\n1")
    assert plays("$ (echo ready; sleep 0.2) &\nready")
    assert not plays("$ echo a\nb")
    assert not plays("$ echo a; echo b\na")
    assert not plays("$ true\na")
    assert not plays("$ false")
    shell.close()
