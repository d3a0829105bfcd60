# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl get`` ask its mirror before it loads what that question does not need?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import fastdl

TOO_SOON = {
    "aiohttp",
    "asyncio",
    "base64",
    "cryptography",
    "dataclasses",
    "fastdl.core.job",
    "fastdl.core.sink",
    "fastdl.engine.checkpoint",
    "fastdl.engine.compare",
    "fastdl.engine.landing",
    "fastdl.engine.result",
    "fastdl.sinks.block",
    "fastdl.sources.metalink",
    "hashlib",
    "idna",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "pathlib",
    "rich",
    "subprocess",
    "tempfile",
    "urllib.parse",
    "xml",
}

LOGGED = """
import sys

log = open(sys.argv[1], "w", buffering=1)


class Log:
    def find_spec(self, name, path=None, target=None):
        log.write(name + "\\n")


sys.meta_path.insert(0, Log())
from fastdl.cli.main import main

sys.exit(main(sys.argv[2:]))
"""


def loaded_before_connecting(tmp_path: Path) -> set[str]:
    """The modules that a real ``fastdl get`` has asked for when its connection arrives.

    It imports nothing more until it is answered, and it never is. -S: what this machine's
    site-packages load into every interpreter would hide what the command loads.
    """
    log = tmp_path / "imports"
    environ = os.environ | {"PYTHONPATH": str(Path(fastdl.__file__).parents[1])}
    with socket.create_server(("127.0.0.1", 0)) as mirror:
        mirror.settimeout(30)
        url = f"http://127.0.0.1:{mirror.getsockname()[1]}/image.raw"
        command = [sys.executable, "-S", "-c", LOGGED, str(log)]
        command += ["get", url, "-o", str(tmp_path / "image.raw")]
        with subprocess.Popen(command, env=environ) as run:
            try:
                connection, _ = mirror.accept()
                with connection:
                    return set(log.read_text().split())
            finally:
                run.kill()


def test_nothing_heavy_is_loaded_before_the_first_connect(tmp_path: Path) -> None:
    """A start has a budget of processor time, and one import too many spends it for everybody."""
    loaded = loaded_before_connecting(tmp_path)
    assert "fastdl.core.net" in loaded
    assert loaded & TOO_SOON == set()
