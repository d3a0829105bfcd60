# SPDX-License-Identifier: Apache-2.0
"""What can a download's process do to its host after what it read has taken it over?

Every attack is tried in the real worker, in the place of the download, with everything in
force that the worker puts in force, by a worker that is root.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.confine import landlock_version
from tests.env import attacker
from tests.env.loopdev import LoopDevice, loop_device

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose"),
    pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock"),
]

IDS = (66_001, 66_001)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LoopDevice]:
    """A block device that is nobody's target."""
    with loop_device(tmp_path, size=8 << 20) as found:
        yield found


@pytest.fixture
def target(tmp_path: Path, device: LoopDevice) -> Iterator[attacker.Target]:
    """A host with secrets, a pool with another tenant's template, and services."""
    state, pool, folder = tmp_path / "state", tmp_path / "pool", tmp_path / "tmp"
    for made, mode in ((state, 0o700), (pool, 0o711), (folder, 0o1777)):
        made.mkdir()
        made.chmod(mode)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    (pool / ".fastdl").mkdir(mode=0o755)
    for path, mode in (
        (state / "host.key", 0o600),
        (state / "cloud.jks", 0o600),
        (folder / "readable", 0o644),
        (pool / "other", 0o644),
    ):
        path.write_bytes(b"content")
        path.chmod(mode)
    with (
        socket.socket(socket.AF_UNIX) as root_only,
        socket.socket(socket.AF_UNIX) as public,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.create_server(("127.0.0.1", 0)) as service,
    ):
        for listener, path, mode in (
            (root_only, state / "libvirt-sock", 0o600),
            (public, folder / "bus", 0o666),
        ):
            listener.bind(str(path))
            path.chmod(mode)
            listener.listen()
        abstract.bind("\0fastdl-test-" + tmp_path.name)
        abstract.listen()
        yield attacker.Target(
            shadow="/etc/shadow",
            host_key=str(state / "host.key"),
            keystore=str(state / "cloud.jks"),
            readable=str(folder / "readable"),
            folder=str(folder),
            pool=str(pool),
            other=str(pool / "other"),
            socket=str(state / "libvirt-sock"),
            public_socket=str(folder / "bus"),
            abstract="fastdl-test-" + tmp_path.name,
            device=device.path,
            refused=[f"127.0.0.1 {service.getsockname()[1]}"],
        )


def _attacked(case: str, target: attacker.Target, *, action: str) -> str:
    """What the worker says whose process, doing *action*, tried *case*."""
    message: str = _answer(case, target, action=action)["error"]["message"]
    return message


def _answer(case: str, target: attacker.Target, *, action: str) -> dict[str, Any]:
    job: dict[str, Any] = {
        "action": action,
        "sources": ["http://127.0.0.1:9/x"],
        "target": f"{target.pool}/target",
        "checksum": None,
        "options": {"target_format": "raw" if action == "unpack" else "same"},
        "placement": {"beneath": target.pool},
        "confinement": {"required": True, "ids": IDS},
    }
    done = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.env.attacker", case, json.dumps(target._asdict())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=target.pool,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdin is not None
    assert done.stdout is not None
    done.stdin.write(json.dumps(job) + "\n")
    done.stdin.flush()
    line = done.stdout.readline()
    _, words = done.communicate(timeout=60)
    assert line, words
    answer: dict[str, Any] = json.loads(line)
    return answer


@pytest.mark.parametrize("case", attacker.ATTACKS)
@pytest.mark.parametrize("step", ["probe", "vouch", "fetch", "unpack"])
def test_a_process_that_was_taken_over_has_its_descriptors_and_nothing_else(
    case: str, step: str, target: attacker.Target
) -> None:
    """Each line of docs/agent.md on what a taken-over download cannot do."""
    _has_nothing_else(case, step, target)


@pytest.mark.parametrize("case", attacker.ATTACKS)
def test_a_process_of_a_forked_worker_has_no_more(case: str, target: attacker.Target) -> None:
    """The worker is another process's fork, and the same."""
    _has_nothing_else(case, "fetch", target, how="forked ")


def _has_nothing_else(case: str, step: str, target: attacker.Target, *, how: str = "") -> None:
    before = sorted(os.listdir(target.pool))
    found = _attacked(how + case, target, action=step)
    assert found == f"tried {len(attacker.ATTACKS[case])}, worked: none"
    assert Path(target.other).read_bytes() == b"content"
    left = set(os.listdir(target.pool)) - set(before)
    assert not any(name in left for name in ("target", "mine")), left
    assert set(os.listdir(target.folder)) == {"readable", "bus"}


@pytest.mark.parametrize(
    ("case", "most"), [("credentials", 8), ("pool", 8), ("network", 10), ("set-id", 4)]
)
def test_the_attacks_work_where_nothing_is_confined(
    case: str, most: int, target: attacker.Target
) -> None:
    """A test that tries nothing passes always. (The cases that would hurt this machine: not.)"""
    found = _attacked(f"free {case}", target, action="fetch")
    assert found.count(";") + 1 >= most, found


@pytest.mark.parametrize(
    ("lie", "code"),
    [("backing file", 24), ("called raw", 24), ("already there", 0), ("nothing wrong", 0)],
)
def test_what_landed_is_checked_by_another_process(
    lie: str, code: int, target: attacker.Target
) -> None:
    """The one that wrote it may call anything a safe image: a host would open its backing file."""
    answer = _answer(lie, target, action="fetch")
    landed = Path(target.pool) / "target"
    if code:
        assert answer["error"]["code"] == code, answer
        assert sorted(os.listdir(target.pool)) == [".fastdl", "other"]
        return
    result = answer["result"]
    assert (result["virtual_size"], result["already_present"]) == (1 << 20, False)
    assert landed.stat().st_size == result["target_bytes"] == 4 << 16
