# SPDX-License-Identifier: Apache-2.0
"""A worker that was taken over: it runs attacks where it should read an origin's bytes.

``python -m tests.env.attacker CASE SECRETS``: the works of ``fastdl.agent.worker`` on standard
input, with attacks in the place of the download. Those that worked are in the message of the
error that the job ends with. SECRETS is a JSON object: see ``Target``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from fastdl.agent import child, confined, fork_server, worker
from fastdl.engine.result import Result
from fastdl.errors import FormatError

_LIBC = ctypes.CDLL(None, use_errno=True)
_PROCESS = os.getpid()  # the worker's own: the parent of what is confined


class Target(NamedTuple):
    """What there is to attack."""

    shadow: str
    host_key: str
    keystore: str
    readable: str  # by everybody, but no business of a download
    folder: str  # writable for everybody, as /tmp is
    pool: str
    other: str  # a published template in it
    socket: str  # of root alone, as libvirt's
    public_socket: str
    abstract: str
    device: str
    refused: list[str]  # "address port" of listeners


Attack = Callable[[Target, int], Any]
"""Raises OSError where it fails; gets the descriptor of the target."""


def call(number: int, *arguments: Any) -> int:
    """A system call by its number, which no wrapper softens."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *plain))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _open(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)


def _write(path: str) -> None:
    os.write(_open(path, os.O_WRONLY), b"x")


def _make(path: str, mode: int = 0o600) -> None:
    _open(path, os.O_WRONLY | os.O_CREAT, mode)


def _unix(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)


def _listen() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)


def _listen_unbound() -> None:
    with socket.socket() as s:
        s.listen(1)  # the kernel chooses a port


def _datagram(t: Target) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", int(t.refused[0].split()[1])))


def _all_processes() -> None:
    os.kill(-1, 0)


X86 = os.uname().machine == "x86_64"
# number on x86-64, on AArch64
N = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268),
    "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "userfaultfd": (323, 282),
    "init_module": (175, 105), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "sethostname": (170, 161), "clock_settime": (227, 112),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "personality": (135, 92),
    "capset": (126, 91), "seccomp": (317, 277), "mknodat": (259, 33), "fsetxattr": (190, 7),
    "memfd_create": (319, 279), "prlimit64": (302, 261), "setpriority": (141, 140),
    "clone": (56, 220), "fanotify_init": (300, 262), "inotify_init1": (294, 26),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "tgkill": (234, 131),
    "vmsplice": (278, 75), "move_pages": (279, 239), "sched_setscheduler": (144, 119),
    "add_watch": (254, 27), "msgget": (68, 186), "shmget": (29, 194), "semget": (64, 190),
    "io_uring_setup": (425, 425), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "openat2": (437, 437), "fsopen": (430, 430), "open_tree": (428, 428), "clone3": (435, 435),
    "process_madvise": (440, 440), "mount_setattr": (442, 442), "memfd_secret": (447, 447),
}  # fmt: skip


def n(name: str) -> int:
    """The number of a system call on this machine."""
    return N[name][0 if X86 else 1]


CREDENTIALS: dict[str, Attack] = {
    "read the password hashes": lambda t, _: _open(t.shadow),
    "read the host's key": lambda t, _: _open(t.host_key),
    "read the keystore": lambda t, _: _open(t.keystore),
    "list root's folder": lambda t, _: os.listdir("/root"),
    "read a file that everybody may": lambda t, _: _open(t.readable),
    "read the worker's memory": lambda t, _: _open(f"/proc/{_PROCESS}/mem"),
    "read the worker's variables": lambda t, _: _open(f"/proc/{_PROCESS}/environ"),
    "list the worker's descriptors": lambda t, _: os.listdir(f"/proc/{_PROCESS}/fd"),
    "read its own memory by name": lambda t, _: _open("/proc/self/mem"),
    "open by handle": lambda t, _: call(n("open_by_handle_at"), 0, b"\0" * 16, 0),
    "name a handle": lambda t, _: call(
        n("name_to_handle_at"), -100, b"/", b"\0" * 64, b"\0" * 8, 0
    ),
}
POOL: dict[str, Attack] = {
    "read another template": lambda t, _: _open(t.other),
    "write to another template": lambda t, _: _write(t.other),
    "cut another template": lambda t, _: os.truncate(t.other, 0),
    "remove another template": lambda t, _: os.unlink(t.other),
    "rename another template": lambda t, _: os.rename(t.other, f"{t.pool}/mine"),
    "link another template": lambda t, _: os.link(t.other, f"{t.pool}/mine"),
    "make a file in the pool": lambda t, _: _make(f"{t.pool}/mine"),
    "make a folder in the pool": lambda t, _: os.mkdir(f"{t.pool}/mine"),
    "list the pool": lambda t, _: os.listdir(t.pool),
    "forge what is known of a template": lambda t, _: _make(f"{t.pool}/.fastdl/mine.json"),
    "publish its own target": lambda t, fd: os.link(
        f"/proc/self/fd/{fd}", f"{t.pool}/mine", follow_symlinks=True
    ),
    "open its own target anew": lambda t, fd: _open(f"/proc/self/fd/{fd}", os.O_RDWR),
}
HOST_FILES: dict[str, Attack] = {
    "plant a job of cron's": lambda t, _: _make("/etc/cron.d/fastdl-attack"),
    "make a file where everybody may": lambda t, _: _make(f"{t.folder}/attack"),
    "make a shared memory file": lambda t, _: _make("/dev/shm/fastdl-attack"),
    "make a symbolic link": lambda t, _: os.symlink("/etc/shadow", f"{t.folder}/attack"),
    "make a socket's name": lambda t, _: socket.socket(socket.AF_UNIX).bind(f"{t.folder}/attack"),
    "change a kernel setting": lambda t, _: _write("/proc/sys/kernel/core_pattern"),
    "write to the kernel's log": lambda t, _: _write("/dev/kmsg"),
    "open the machine's memory": lambda t, _: _open("/dev/mem"),
    "open a block device": lambda t, _: _open(t.device, os.O_RDWR),
    "open the hypervisor": lambda t, _: _open("/dev/kvm", os.O_RDWR),
    "use its control terminal": lambda t, _: _open("/dev/tty", os.O_RDWR),
    "watch files": lambda t, _: call(n("inotify_init1"), 0),
    "watch all files": lambda t, _: call(n("fanotify_init"), 0, 0),
    "make a hidden file": lambda t, _: call(n("memfd_create"), b"x", 0),
}
SET_ID: dict[str, Attack] = {
    "set the target's user id bit": lambda t, fd: os.fchmod(fd, 0o4755),
    "set its group id bit": lambda t, fd: os.fchmod(fd, 0o2755),
    "make a file with the bit": lambda t, _: _make("x", 0o4755),
    "make a folder with the bit": lambda t, _: os.mkdir("y", 0o2755),
    "hide the bit from the filter": lambda t, _: call(
        n("openat2"), -100, b"x", struct.pack("=QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0), 24
    ),
    "give the target away": lambda t, fd: os.fchown(fd, 1, 1),
    "give it capabilities": lambda t, fd: call(
        n("fsetxattr"), fd, b"security.capability", b"\1\0\0\2" + b"\xff" * 16, 20, 0
    ),
    "make a device node": lambda t, _: call(n("mknodat"), -100, b"z", 0o020666, 0x0101),
    "make a fifo": lambda t, _: os.mkfifo("z"),
}
PROCESSES: dict[str, Attack] = {
    "ask whether the worker lives": lambda t, _: os.kill(_PROCESS, 0),
    "kill the worker": lambda t, _: os.kill(_PROCESS, signal.SIGKILL),
    "kill a thread of it": lambda t, _: call(n("tgkill"), _PROCESS, _PROCESS, 9),
    "signal everybody": lambda t, _: _all_processes(),
    "signal by a descriptor's owner": lambda t, fd: fcntl.fcntl(fd, fcntl.F_SETOWN, _PROCESS),
    "trace the worker": lambda t, _: call(n("ptrace"), 16, _PROCESS, 0, 0),
    "be traced by it": lambda t, _: call(n("ptrace"), 0, 0, 0, 0),
    "read its memory": lambda t, _: call(n("process_vm_readv"), _PROCESS, b"", 0, b"", 0, 0),
    "hold it": lambda t, _: call(n("pidfd_open"), _PROCESS, 0),
    "take a descriptor of it": lambda t, _: call(n("pidfd_getfd"), 0, 0, 0),
    "limit it": lambda t, _: call(n("prlimit64"), _PROCESS, 7, 0, 0),
    "slow it down": lambda t, _: call(n("setpriority"), 0, _PROCESS, 19),
    "be scheduled first": lambda t, _: call(n("sched_setscheduler"), 0, 1, b"\1\0\0\0"),
    "start a process": lambda t, _: os.fork() or os._exit(0),
    "start one the new way": lambda t, _: call(n("clone3"), b"\0" * 64, 64),
    "become a program": lambda t, _: os.execv("/bin/true", ["true"]),
    "type into the terminal": lambda t, _: fcntl.ioctl(0, 0x5412, b"x"),
}
IDENTITY: dict[str, Attack] = {
    "become root": lambda t, _: os.setuid(0),
    "become root in effect": lambda t, _: os.seteuid(0),
    "join root's group": lambda t, _: os.setgid(0),
    "join groups": lambda t, _: os.setgroups([0]),
    "take capabilities": lambda t, _: call(
        n("capset"), struct.pack("=Ii", 0x20080522, 0), b"\xff" * 24
    ),
    "be dumped": lambda t, _: _prctl(4, 1),
    "keep capabilities": lambda t, _: _prctl(8, 1),
    "be a user namespace's root": lambda t, _: call(n("unshare"), 0x10000000),
    "have a mount namespace": lambda t, _: call(n("unshare"), 0x00020000),
    "have a network of its own": lambda t, _: call(n("unshare"), 0x40000000),
    "enter another namespace": lambda t, _: call(n("setns"), 0, 0),
    "make a namespace with a thread": lambda t, _: call(
        n("clone"), 0x10000 | 0x800 | 0x100 | 0x40000000, 0, 0, 0, 0
    ),
    "filter calls anew": lambda t, _: call(n("seccomp"), 0, 0, 0),
    "be another kind of machine": lambda t, _: call(n("personality"), 0x0040000),
}
KERNEL: dict[str, Attack] = {
    "mount": lambda t, _: call(n("mount"), b"none", t.folder.encode(), b"tmpfs", 0, 0),
    "mount the new way": lambda t, _: call(n("fsopen"), b"tmpfs", 0),
    "clone a mount": lambda t, _: call(n("open_tree"), -100, b"/", 1),
    "change a mount": lambda t, _: call(n("mount_setattr"), -100, b"/", 0, b"\0" * 32, 32),
    "unmount": lambda t, _: call(n("umount2"), b"/proc", 2),
    "change the root": lambda t, _: os.chroot("/"),
    "swap the root": lambda t, _: call(n("pivot_root"), b"/", b"/"),
    "set up io_uring": lambda t, _: call(n("io_uring_setup"), 8, b"\0" * 120),
    "load a program into the kernel": lambda t, _: call(n("bpf"), 5, b"\0" * 120, 120),
    "count events": lambda t, _: call(n("perf_event_open"), b"\0" * 112, 0, -1, -1, 0),
    "handle page faults": lambda t, _: call(n("userfaultfd"), 1),
    "hide memory": lambda t, _: call(n("memfd_secret"), 0),
    "read keys": lambda t, _: call(n("keyctl"), 0, -3, 0, 0, 0),
    "add a key": lambda t, _: call(n("add_key"), b"user", b"x", b"x", 1, -2),
    "ask for a key": lambda t, _: call(n("request_key"), b"user", b"x", 0, -2),
    "load a module": lambda t, _: call(n("init_module"), b"x", 1, b""),
    "load a kernel": lambda t, _: call(n("kexec_load"), 0, 0, 0, 0),
    "restart the machine's keys": lambda t, _: call(n("reboot"), 0xFEE1DEAD, 672274793, 0, 0),
    "swap to a file": lambda t, _: call(n("swapon"), t.device.encode(), 0),
    "rename the host": lambda t, _: socket.sethostname("x"),
    "set the clock": lambda t, _: call(n("clock_settime"), 0, b"\0" * 16),
    "read the kernel's log": lambda t, _: call(n("syslog"), 3, b"\0" * 64, 64),
    "write accounts": lambda t, _: call(n("acct"), 0),
    "set quotas": lambda t, _: call(n("quotactl"), 0x800002 << 8, b"/", 0, b"\0" * 128),
    "share memory": lambda t, _: call(n("shmget"), 0, 4096, 0o1600),
    "share messages": lambda t, _: call(n("msgget"), 0, 0o1600),
    "share semaphores": lambda t, _: call(n("semget"), 0, 1, 0o1600),
}
NETWORK: dict[str, Attack] = {
    "talk to root's socket": lambda t, _: _unix(t.socket),
    "talk to a public socket": lambda t, _: _unix(t.public_socket),
    "talk to an abstract socket": lambda t, _: _unix("\0" + t.abstract),
    "send datagrams between sockets with names": lambda t, _: socket.socketpair(
        socket.AF_UNIX, socket.SOCK_DGRAM
    ),
    "listen": lambda t, _: _listen(),
    "listen without a port": lambda t, _: _listen_unbound(),
    "send to any address": lambda t, _: _datagram(t),
    "make a raw socket": lambda t, _: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "ping": lambda t, _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1),
    "read packets": lambda t, _: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "change the network": lambda t, _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "talk to the hypervisor": lambda t, _: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "use the kernel's ciphers": lambda t, _: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "speak SCTP": lambda t, _: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132),
    "speak MPTCP": lambda t, _: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262),
}
ATTACKS: dict[str, dict[str, Attack]] = {
    "credentials": CREDENTIALS,
    "pool": POOL,
    "files": HOST_FILES,
    "set-id": SET_ID,
    "processes": PROCESSES,
    "identity": IDENTITY,
    "kernel": KERNEL,
    "network": NETWORK,
}


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _reached(place: str, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether the kernel was asked to connect there: an answer of the other side shows that."""
    address, port = place.split()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as s:
        s.settimeout(5)
        try:
            s.connect((address, int(port)))
        except OSError as exc:
            return exc.errno not in {errno.EACCES, errno.ENETUNREACH}
    return True


def reach(target: Target) -> None:
    """End with the places that could be reached, the first one being the job's own."""
    places = [place for place in target.refused if _reached(place)]
    places += [f"datagrams to {at}" for at in target.refused if _reached(at, socket.SOCK_DGRAM)]
    with contextlib.suppress(OSError), socket.socket() as s:
        s.bind(("0.0.0.0", 777))
        places.append("from a port of root's")
    _report(json.dumps(places))


def _report(words: str) -> None:
    raise FormatError(words)  # what a source sent is told in the process's own words


def attack(kind: str, target: Target, fd: int) -> None:
    """Try all of *kind*; end with the names of those that worked."""
    worked = []
    for name, one in ATTACKS[kind].items():
        try:
            one(target, fd)
        except OSError as exc:
            if exc.errno in {errno.EFAULT, errno.EINVAL, errno.EBADF}:
                worked.append(f"{name} (the kernel looked at it: {exc.strerror})")
            continue
        worked.append(name)
    _report(f"tried {len(ATTACKS[kind])}, worked: {'; '.join(worked) or 'none'}")


def lie(kind: str, fd: int, channel: confined.Channel) -> None:
    """Land what no honest process would, and say that all is well."""
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 65536, 131072, 1, 0, 0
    )
    header = header.ljust(104, b"\0")[:100] + struct.pack(">I", 104)
    name = b"/etc/shadow"
    if kind in {"backing file", "called raw"}:
        header = header[:8] + struct.pack(">QI", 112, len(name)) + header[20:]
    image = bytearray(4 << 16)
    image[: len(header)] = header
    if kind in {"backing file", "called raw"}:
        image[112 : 112 + len(name)] = name
    os.pwrite(fd, bytes(image), 0)
    result = Result(
        target="x",
        source_bytes=1,
        target_bytes=len(image),
        fetched_bytes=1,
        resumed_bytes=0,
        digests={},
        integrity="strong",
        consistency="digest",
        format="raw" if kind == "called raw" else "qcow2",
        seconds=0.1,
        stages={},
        bottleneck="network",
        mirrors=(),
        warnings=(),
        virtual_size=1 << 40,
        already_present=kind == "already there",
    ).to_dict()
    channel.send({"begun": len(image)})
    channel.send({"result": result})
    channel.send({"result": result | {"target_bytes": 1}})


LIES = ("backing file", "called raw", "already there", "nothing wrong")


def main() -> int:
    """Be the worker, taken over as soon as it is confined."""
    case, secrets = sys.argv[1:]
    if case.startswith("free "):  # to see that the attacks are none in name only
        child.confine = lambda _powers: ((), -1)
    case = case.removeprefix("free ")
    forked, case = case.startswith("forked "), case.removeprefix("forked ")
    target = Target(**json.loads(secrets))

    def taken_over(_job: Any, *rest: Any) -> None:
        """Of ``land`` and ``probe`` alike: the first has a workspace before its channel."""
        if case == "reach":
            reach(target)
        if case in LIES:
            lie(case, rest[0].descriptors()[0], rest[1])
            return
        attack(case, target, rest[0].descriptors()[0] if len(rest) > 1 else 0)

    confined.land = taken_over  # type: ignore[assignment]
    worker._SINGLE_STEPS.update(probe=taken_over, vouch=taken_over)  # type: ignore[arg-type]
    return _forked() if forked else worker.main()


def _forked() -> int:
    """Have a fork server, which this process becomes the agent of, make the worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        os.dup2(theirs.detach(), 0)
        os._exit(fork_server.main())
    theirs.close()
    socket.send_fds(ours, [b'{"start": 0}'], [0, 1])
    ended = json.loads(ours.recv(fork_server.MESSAGE_MAX))
    ours.close()
    os.wait()
    status: int = ended["status"]
    return status


if __name__ == "__main__":
    os._exit(main())
