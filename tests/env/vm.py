# SPDX-License-Identifier: Apache-2.0
"""A machine of its own: what the one that runs the tests has not, it has, and it can be cut off.

It runs by KVM where that starts its kernel, else under emulation, without a network: commands
go over a virtual serial line, to a shell of root's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.env import vm_image

BOOT_S = 420.0
"""Of emulation on a machine that others load too; it takes one minute to two."""
KVM_S = 15.0
"""Within which a kernel has to start under KVM."""
_QEMU = (
    "qemu-system-x86_64",
    "-cpu",
    "max",
    "-display",
    "none",
    "-nodefaults",
    "-nic",
    "none",
    "-no-user-config",
    "-no-reboot",
)


@dataclass(slots=True)
class Machine:
    """One that runs."""

    folder: Path
    words: list[str]
    process: subprocess.Popen[bytes]
    line: socket.socket
    asked: int = 0
    held: bytes = field(default=b"")

    def run(
        self, command: str, *, check: bool = True, timeout: float = 120, put: bytes = b""
    ) -> str:
        """What *command* prints on both outputs. RuntimeError where it fails."""
        status, output = self._ask(command, put, timeout)
        if check and status:
            raise RuntimeError(f"{command}\nended with {status}: {output[-4000:]}")
        return output

    def wait_for(self, command: str, *, timeout: float = 120, pause: float = 1) -> str:
        """What *command* prints once it succeeds; it is tried every *pause* seconds."""
        end = time.monotonic() + timeout
        while True:
            status, output = self._ask(command, b"", timeout)
            if status == 0:
                return output
            if time.monotonic() > end:
                raise TimeoutError(f"{command}\nstill ends with {status}: {output[-4000:]}")
            time.sleep(pause)

    def write(self, path: str, content: bytes | str) -> None:
        """Put *content* into the file at *path*."""
        data = content.encode() if isinstance(content, str) else content
        self.run(f"mkdir -p $(dirname {path}) && cat > {path}", put=data)

    def cut_power(self) -> None:
        """Off and on again, in the middle of whatever it does."""
        self.stop()
        self._start_again()

    def reboot(self) -> None:
        """As an operator does it. The emulator ends with the machine (-no-reboot)."""
        self._tell("systemctl reboot", b"")
        self.process.wait(BOOT_S)
        self.stop()
        self._start_again()

    def _start_again(self) -> None:
        self.process, self.line = _start(self.words, self.folder)
        self.held = b""
        self.wait_until_up()

    def wait_until_up(self) -> None:
        """Return when it is up; RuntimeError with its console where it does not come."""
        end = time.monotonic() + BOOT_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(TimeoutError):
                self._ask("systemctl is-system-running --wait", b"", 20)
                return
        raise RuntimeError(f"it did not start: {(self.folder / 'console').read_text()[-3000:]}")

    def stop(self) -> None:
        """Off, without a word."""
        self.process.kill()
        self.process.wait()
        self.line.close()

    def _tell(self, command: str, put: bytes) -> int:
        self.asked += 1
        said = {"id": self.asked, "command": command, "input": base64.b64encode(put).decode()}
        self.line.sendall(json.dumps(said).encode() + b"\n")
        return self.asked

    def _ask(self, command: str, put: bytes, timeout: float) -> tuple[int, str]:
        number = self._tell(command, put)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            while b"\n" in self.held:
                line, _, self.held = self.held.partition(b"\n")
                with contextlib.suppress(ValueError):  # it was cut off in the middle of an answer
                    answer = json.loads(line)
                    if answer["id"] == number:
                        output = base64.b64decode(answer["output"]).decode(errors="replace")
                        return answer["status"], output
            self.line.settimeout(left)
            more = self.line.recv(1 << 16)
            if not more:
                raise ConnectionError(f"the machine is gone: {command}")
            self.held += more
        raise TimeoutError(f"no answer within {timeout} s: {command}")


@contextlib.contextmanager
def machine(folder: Path, *, disk: str = "2G", memory: int = 1536) -> Iterator[Machine]:
    """A machine that is up, with fastdl mounted in it, and an empty disk /dev/vdc of size *disk*.

    Its disks and its console are files in *folder*. *memory*: MiB.
    """
    base = vm_image.image()
    vm_image.program(folder / "program.img")
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    over = ["-b", str(base / "disk.img"), "-F", "raw"]
    vm_image.run_tool([*create, *over, str(folder / "disk.qcow2")])
    vm_image.run_tool([*create, str(folder / "second.qcow2"), disk])
    boot = "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 mitigations=off"
    words = [
        *(*_QEMU, "-accel", _accelerator(base), "-m", str(memory), "-smp", "2"),
        *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd.img"), "-append", boot),
        *("-drive", f"file={folder}/disk.qcow2,if=virtio,format=qcow2,cache=writethrough"),
        *("-drive", f"file={folder}/program.img,if=virtio,format=raw,readonly=on"),
        *("-drive", f"file={folder}/second.qcow2,if=virtio,format=qcow2,cache=writethrough"),
        *("-serial", f"file:{folder}/console", "-device", "virtio-rng-pci"),
        *("-device", "virtio-serial", "-device", "virtserialport,chardev=tests,name=tests"),
        *("-chardev", f"socket,id=tests,path={folder}/line,server=on,wait=off"),
    ]
    process, line = _start(words, folder)
    made = Machine(folder, words, process, line)
    try:
        made.wait_until_up()
        yield made
    finally:
        made.stop()


def _accelerator(base: Path) -> str:
    """KVM where it starts the kernel: /dev/kvm of a machine that is itself virtual may not."""
    if not Path("/dev/kvm").exists():
        return "tcg,thread=multi"
    # Without a root file system it panics, restarts, and so ends.
    words = [
        *_QEMU,
        "-accel",
        "kvm",
        "-m",
        "512",
        "-kernel",
        str(base / "vmlinuz"),
        "-append",
        "panic=-1",
    ]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(words, check=False, capture_output=True, timeout=KVM_S)
        if done.returncode == 0:
            return "kvm"
    return "tcg,thread=multi"


def _start(words: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    (folder / "line").unlink(missing_ok=True)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    line = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + 20
    while True:
        try:
            line.connect(str(folder / "line"))
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return process, line
