# SPDX-License-Identifier: Apache-2.0
"""Does a confined process keep what it was given, and is what is missing said?

What it cannot do any more: tests/integration/test_confinement.py.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from fastdl.agent import confine as module
from fastdl.agent.config import HostConfig
from fastdl.agent.confine import Confinement, landlock_version
from fastdl.errors import UsageError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")

PROGRAM = """
import json, os, socket, sys
from pathlib import Path
from fastdl.agent import confine
from fastdl.agent.confine import Powers, close_all_but
from fastdl.agent.supplies import supplies_for_confined

folder, elsewhere = Path(sys.argv[1]), Path(sys.argv[2])
inside = os.open(elsewhere / "there", os.O_RDWR)
exec(sys.argv[3])
supplies = supplies_for_confined()  # the tests' own Python may lie where only root may go
close_all_but({0, 1, 2, inside, *supplies.descriptors})
supplies.apply()
ids = (66_001, 66_001) if os.geteuid() == 0 else None
lacks, _ = confine.confine(Powers(ids=ids, folder=str(folder), network=True))

def tried(action):
    try:
        action()
    except OSError as exc:
        return exc.errno
    return 0

print(json.dumps({
    "lacks": lacks,
    "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
    "write in the folder": tried(lambda: Path("a").write_bytes(b"x")),
    "folder in the folder": tried(lambda: Path("d").mkdir()),
    "write to the descriptor": tried(lambda: os.pwrite(inside, b"C", 0)),
    "cut by the descriptor": tried(lambda: os.ftruncate(inside, 7)),
    "read names of hosts": tried(lambda: Path("/etc/hosts").read_bytes()),
    "connect": tried(lambda: socket.socket().connect(("127.0.0.1", 1))),
    "write elsewhere": tried(lambda: (elsewhere / "there").write_bytes(b"x")),
    "read elsewhere": tried(lambda: (elsewhere / "there").read_bytes()),
}))
"""


def _confined(tmp_path: Path, before: str = "") -> dict[str, object]:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir(mode=0o700)
    elsewhere.mkdir()
    (elsewhere / "there").write_bytes(b"content")
    (elsewhere / "there").chmod(0o666)
    if os.geteuid() == 0:
        os.chown(folder, 66_001, 66_001)
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, folder, elsewhere, before],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@needs_root
@needs_landlock
def test_what_a_download_was_given_is_what_it_keeps(tmp_path: Path) -> None:
    """Its folder, its descriptors, names of hosts and connections; whoever may enter a parent."""
    tmp_path.chmod(0o700)
    found = _confined(tmp_path)
    assert found.pop("lacks") == ["a broker of its connections"]
    assert found.pop("ids") == [66_001] * 6
    assert found.pop("connect") == 111  # nobody listens there
    kept = {name for name, number in found.items() if number == 0}
    assert kept == {
        "write in the folder",
        "folder in the folder",
        "write to the descriptor",
        "cut by the descriptor",
        "read names of hosts",
    }
    assert (tmp_path / "elsewhere" / "there").read_bytes() == b"Content"


@needs_root
@pytest.mark.parametrize(
    ("before", "lacks"),
    [
        ("confine.landlock_version = lambda: 0", "Landlock"),
        (
            """
import errno, fastdl.agent.confine as used
def absent(**_): raise OSError(errno.ENOSYS, 'absent')
used.confine_calls = absent
""",
            "seccomp",
        ),
        (
            "def refused(*_): raise PermissionError\nos.setresuid = refused",
            "a user of its own",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_and_the_rest_stands(
    tmp_path: Path, before: str, lacks: str
) -> None:
    """An old kernel, another architecture, an agent without CAP_SETUID."""
    tmp_path.chmod(0o700)
    found = _confined(tmp_path, before)
    broker = ["a broker of its connections"] if lacks != "seccomp" else []
    assert found["lacks"] == [lacks, *broker]
    assert found["write elsewhere"] != 0
    assert found["write to the descriptor"] == 0


def test_a_download_runs_as_a_user_that_nobody_is() -> None:
    """Two of them at a time cannot reach each other either."""
    if os.geteuid() != 0:
        assert Confinement().ids() is None
        return
    seen = {Confinement(user="no-such-user").ids() for _ in range(8)}
    assert len(seen) > 1
    for ids in seen:
        assert ids is not None
        assert ids[0] == ids[1] in module._DYNAMIC_USERS
        with pytest.raises(KeyError):
            pwd.getpwuid(ids[0])
    nobody = pwd.getpwnam("nobody")
    assert Confinement(user="nobody").ids() == (nobody.pw_uid, nobody.pw_gid)


def test_the_operator_says_whether_less_will_do(tmp_path: Path) -> None:
    """agent.properties: a host that cannot confine may refuse to download."""

    def of(text: str) -> Confinement:
        (tmp_path / "agent.properties").write_text(text)
        return HostConfig.load(tmp_path).confinement

    assert of("") == Confinement(required=False, user="fastdl-worker")
    assert of("fastdl.confinement=required\nfastdl.worker.user=tester") == Confinement(
        required=True, user="tester"
    )
    with pytest.raises(UsageError, match="required or best-effort"):
        of("fastdl.confinement=maybe").required  # noqa: B018
