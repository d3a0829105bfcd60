# SPDX-License-Identifier: Apache-2.0
"""Can a confined process still write outside its pool?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.agent.confine import landlock_version

PROGRAM = """
import json, os, signal, socket, sys
from pathlib import Path
from fastdl.agent.confine import confine

pool, elsewhere, existing = map(Path, sys.argv[1:4])
confine([pool, existing, Path("/does/not/exist")])

def tried(action):
    try:
        action()
    except OSError as exc:
        return exc.errno
    return 0

def listen():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

print(json.dumps({
    "write in the pool": tried(lambda: (pool / "a").write_bytes(b"x")),
    "folder in the pool": tried(lambda: (pool / "d").mkdir()),
    "rename in the pool": tried(lambda: (pool / "a").rename(pool / "d" / "b")),
    "write to the device given": tried(lambda: existing.write_bytes(b"x")),
    "remove the device given": tried(existing.unlink),
    "create elsewhere": tried(lambda: (elsewhere / "a").write_bytes(b"x")),
    "change elsewhere": tried(lambda: (elsewhere / "there").write_bytes(b"x")),
    "truncate elsewhere": tried(lambda: os.truncate(elsewhere / "there", 0)),
    "remove elsewhere": tried((elsewhere / "there").unlink),
    "rename out of the pool": tried(lambda: (pool / "d" / "b").rename(elsewhere / "b")),
    "read elsewhere": tried((elsewhere / "there").read_bytes),
    "listen": tried(listen),
    "signal the parent": tried(lambda: os.kill(os.getppid(), 0)),
    "no_new_privs": int(next(
        line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")
    )),
}))
"""


@pytest.mark.skipif(landlock_version() < 6, reason="this kernel's Landlock is older than 6")
def test_a_confined_process_writes_to_its_pool_and_nowhere_else(tmp_path: Path) -> None:
    """A crafted image that takes over the parser still cannot touch the host's other files."""
    pool, elsewhere, device = tmp_path / "pool", tmp_path / "elsewhere", tmp_path / "device"
    pool.mkdir()
    elsewhere.mkdir()
    device.touch()
    (elsewhere / "there").write_bytes(b"content")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, pool, elsewhere, device],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(done.stdout)
    allowed = {name for name, number in found.items() if number == 0}
    assert allowed == {
        "write in the pool",
        "folder in the pool",
        "rename in the pool",
        "write to the device given",
        "read elsewhere",
    }
    assert found["no_new_privs"] == 1
    assert (elsewhere / "there").read_bytes() == b"content"
