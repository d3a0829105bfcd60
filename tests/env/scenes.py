# SPDX-License-Identifier: Apache-2.0
"""What is there before a guide's first command, and does each command do what the guide says?

``python -m tests.env.scenes [--show] PAGE FOLDER [NAME=DEVICE...]``, behind the words of
``sandbox.ENTER``. It prints each command with its output; it ends with 1 at the first command that
fails or prints something else. With ``--show`` it goes on: a new guide gets its output so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fastdl.lab import guest
from fastdl.lab.metalink import metalink_of
from tests.env import guide, sandbox
from tests.env.origin import pseudo_random

MIB = 1 << 20
LINE = "Hello from the guest."
"""What the images that boot write to the first serial port."""
ZONE = """
$ mkdir -p /srv/images
$ fastdl manager --state /var/lib/fastdl/manager --agent-listen 0.0.0.0:8250 &
…
fastdl manager serves …
$ export FASTDL_CREDENTIALS=/var/lib/fastdl/manager/admin.json
$ fastdl api create zone name=z1 && fastdl host token >token
…
$ fastdl agent --manager https://mgmt.example:8250 --token-file token --pool images=/srv/images &
…
… info connected…
"""
"""The zone of docs/first-zone.md, with one host."""
TEMPLATE = """
$ fastdl cert upload mirror1 ca.pem
…
$ fastdl template register u24 https://mirror.example/u24.qcow2.meta4
…
"""

DEFAULT = """
$ virsh -q pool-create-as default dir --target /var/lib/libvirt/images
…
"""
"""libvirt's usual pool."""


class Scene(NamedTuple):
    """What a page needs; *before*: commands, *devices*: name below /dev → size of a device."""

    before: str = ""
    devices: tuple[tuple[str, int], ...] = ()
    private: bool = True
    libvirt: bool = False


SCENES = {
    "block-devices.md": Scene(devices=(("vg0/vm1", 64 * MIB), ("vg0/vm2", 64 * MIB))),
    "exec.md": Scene(),
    "first-zone.md": Scene(libvirt=True),
    "hosts.md": Scene(before=ZONE),
    "metalinks.md": Scene(private=False),
    "operations.md": Scene(),
    "private-ca.md": Scene(before=ZONE, private=False),
    "seeding.md": Scene(before=ZONE + TEMPLATE),
    "troubleshooting.md": Scene(devices=(("vg0/small", 4 * MIB),)),
    "volumes.md": Scene(before=DEFAULT, libvirt=True),
    "vms.md": Scene(before=ZONE + TEMPLATE, libvirt=True),
}
"""The pages whose commands are run. Every other block says why it is not."""


def publish(home: Path) -> None:
    """The images that the guides' mirrors have."""
    raw = home / "raw"
    raw.write_bytes(guest.disk(LINE, 8 * MIB)[: 4 * MIB] + pseudo_random(24, 4 * MIB))
    for name in ("u24", "debian-12"):
        made = home / f"{name}.qcow2"
        convert = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
        subprocess.run(convert, check=True)
    raw.unlink()
    made.rename(home / "debian-12.qcow2")
    for root in Path("/srv/www").iterdir():
        for name in ("u24.qcow2", "debian-12.qcow2"):
            content = (home / name).read_bytes()
            (root / name).write_bytes(content)
            urls = [f"https://{root.name}/{name}"]
            document = metalink_of(content, urls, name=name, piece=MIB)
            (root / f"{name}.meta4").write_text(document)
        sums = [
            f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
            for p in root.glob("*.qcow2")
        ]
        (root / "SHA256SUMS").write_text("".join(sorted(sums)))
    (home / "u24.qcow2").unlink()


def play(blocks: Iterable[guide.Block], shell: sandbox.Shell, *, show: bool = False) -> bool:
    """Run the commands of *blocks*; False after the first that does not do what the page says."""
    for block in blocks:
        for command in block.commands if not block.reason else ():
            print(f"{command.line}: $ {command.text}", flush=True)
            began = time.monotonic()
            code, output = shell.run(command.text)
            right = code == 0 and _shown(command, output)
            print(f"{output.read_text()}({time.monotonic() - began:.1f} s)", flush=True)
            if not right:
                expected = "\n".join(command.output or ())
                print(
                    f"!! line {command.line}: code {code}; the page says:\n{expected}", flush=True
                )
                if not show:
                    return False
    return True


def _shown(command: guide.Command, output: Path) -> bool:
    if command.output is None:
        return True
    lines = command.output

    def there() -> bool:
        return guide.shows(lines, output.read_text(), more=command.stays)

    return sandbox.until(there) if command.stays else there()


def main(words: list[str]) -> int:
    """Play a page in a new sandbox; the exit code."""
    show = "--show" in words
    page, place, *devices = [word for word in words if word != "--show"]
    scene, folder = SCENES[Path(page).name], Path(place)
    sandbox.prepare(folder, dict(pair.split("=", 1) for pair in devices))
    authority = sandbox.mirrors(folder, private=scene.private)
    shell = sandbox.Shell(folder)
    publish(shell.home)
    if scene.private:
        shutil.copy(authority.ca.cert_file, shell.home / "ca.pem")
    if scene.libvirt:
        sandbox.libvirt()
    before = guide.blocks(f"```console\n{scene.before.strip()}\n```")
    if not play(before, shell):
        return 1
    return 0 if play(guide.blocks(Path(page).read_text()), shell, show=show) else 1


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
