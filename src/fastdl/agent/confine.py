# SPDX-License-Identifier: Apache-2.0
"""What may the process that reads hostile bytes still do to this host?

It works with the descriptors that it was given and permanently gives up everything else: gaining
privileges (no_new_privs), being root (its own user, no groups, no capabilities), every path except
those of code, certificates and name resolution (Landlock), every system call that no download needs
(seccomp), more memory, larger files and more threads than one needs, a core file, being traced.
Protections that the kernel lacks are reported.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

# Not in a fork: its user may not read the file, and an import beside threads may wait forever.
from fastdl.core.confine import confine_calls
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.syscalls import die_with_parent, libc

WORKER_USER = "fastdl-worker"
MEMORY = 4 << 30
"""Bytes of memory per process. Downloads were measured at 0.2 GiB; the map of an image may take
1 GiB, and each thread may fill its stack."""
_ADDRESS_SPACE = 64 << 30
"""Bytes on top of that, for address space that is only reserved, such as malloc's arenas."""
_THREADS = 4096
"""Per user, over all processes. One process has about 100 at most."""
_DYNAMIC_USERS = range(65_600, 99_000)
"""Ids that nothing assigns: above 16 bits, below the first of /etc/subuid."""

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_VERSION_1 = (1 << 13) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_BIND_TCP = 1
_SCOPES = 0b11  # abstract sockets and signals stay inside the process's own domain

_PROGRAMS = ("/usr", "/lib", "/lib64", "/bin")
_READABLE = (
    *_PROGRAMS,
    *("/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu"),
    *("/dev/urandom", "/proc/sys/kernel/random/boot_id"),
    # certificates, and how OpenSSL is configured
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies"),
    # names of hosts
    *("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/protocols", "/run/systemd/resolve", "/run/NetworkManager"),
)


class Confinement(NamedTuple):
    """How the operator wants downloads confined.

    ``required``  a host that lacks a part refuses to download, instead of warning once
    ``user``      the user that they run as; if it does not exist, an unused id
    """

    required: bool = False
    user: str = WORKER_USER

    def ids(self) -> tuple[int, int] | None:
        """(uid, gid) for one process; None if this process may not change its own."""
        if os.geteuid() != 0:
            return None
        known = _ids_of(self.user)
        if known is not None:
            return known
        number = _DYNAMIC_USERS[int.from_bytes(os.urandom(4)) % len(_DYNAMIC_USERS)]
        return number, number


BEST_EFFORT = Confinement()


@functools.cache
def _ids_of(user: str) -> tuple[int, int] | None:
    import pwd  # only for the agent

    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


class Powers(NamedTuple):
    """What a process keeps besides its descriptors.

    ``ids``       the user and group that it becomes; None: unchanged
    ``folder``    where it may read and write files; its working directory
    ``network``   it may connect by TCP and UDP
    ``brokered``  each connection is decided and made by ``broker``
    ``program``   it may execute one system program
    ``memory``    bytes that it may allocate, in addition to what it has
    ``file_size`` bytes that a file it writes may have; None: unlimited
    """

    ids: tuple[int, int] | None
    folder: str | None = None
    network: bool = False
    brokered: bool = False
    program: bool = False
    memory: int = MEMORY
    file_size: int | None = None


def confine(powers: Powers) -> tuple[tuple[str, ...], int]:
    """Reduce this process to *powers*.

    Returns what the kernel lacks for it, and the descriptor on which its connections wait (-1 for
    none). The process must have a single thread, and is killed when its parent dies. Raises OSError
    when a protection that the kernel supports cannot be enabled.

    """
    missing: list[str] = []
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.chdir(powers.folder or "/")
    _be_killed_first()
    _limit(powers)
    version = landlock_version()
    if version:
        _landlock(version, powers)
    else:
        missing.append("Landlock")
    if powers.ids is None or not _become(*powers.ids):
        missing.append("a user of its own")
    _drop_capabilities()
    _prctl(_PR_SET_DUMPABLE, 0)
    die_with_parent(signal.SIGKILL)
    listener, lacking = _filter_calls(powers)
    return (*missing, *lacking), listener


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor that is not in *kept*."""
    edges = (-1, *sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for after, before in itertools.pairwise(edges):
        if after + 1 < before:
            os.closerange(after + 1, before)


def landlock_version() -> int:
    """The kernel's Landlock version, 0 if it is missing or disabled."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def _become(uid: int, gid: int) -> bool:
    """Become that user, without groups; False if that is not permitted."""
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        return False
    return True


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)):
        raise _error("capset")


def _be_killed_first() -> None:
    """If the host runs out of memory, this process is killed rather than a virtual machine."""
    with contextlib.suppress(OSError), _opened("/proc/self/oom_score_adj", os.O_WRONLY) as fd:
        os.write(fd, b"1000")


def _limit(powers: Powers) -> None:
    """Set the resource limits, relative to what is mapped: a sanitizer's shadow is large."""
    with _opened("/proc/self/statm", os.O_RDONLY) as fd:
        pages = [int(word) for word in os.read(fd, 256).split()]
    size, data = (pages[at] * resource.getpagesize() for at in (0, 5))
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: data + powers.memory,
        resource.RLIMIT_AS: size + powers.memory + _ADDRESS_SPACE,
    }
    if powers.file_size is not None:
        limits[resource.RLIMIT_FSIZE] = powers.file_size
    if powers.ids is not None:
        limits[resource.RLIMIT_NPROC] = _THREADS
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        low = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (low, low))


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """A descriptor alone: Python's files visit more pages, and a fork copies each."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _filter_calls(powers: Powers) -> tuple[int, list[str]]:
    """The listener, -1 for none, and what is missing."""
    for brokered in (True, False) if powers.brokered else (False,):
        with contextlib.suppress(OSError):
            listener = confine_calls(
                network=powers.network, program=powers.program, broker=brokered
            )
            missing = powers.network and not brokered
            return listener, ["a broker of its connections"] if missing else []
    return -1, ["seccomp"]


def _landlock(version: int, powers: Powers) -> None:
    handled = _ALL_OF_VERSION_1
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    attributes = struct.pack("Q", handled)
    if version >= 4:
        attributes += struct.pack("Q", _BIND_TCP)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPES)
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in _code_and_settings():
            _allow(rules, path, handled & _READ)
        _allow(rules, "/dev/null", handled & (_READ | _WRITE_FILE))
        for path in _PROGRAMS if powers.program else ():
            _allow(rules, path, handled & (_READ | _EXECUTE))
        if powers.folder is not None:
            _allow(rules, powers.folder, handled & (_READ | _WRITE))
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _code_and_settings() -> Sequence[str]:
    """The files that it may read: this program, the system's libraries, certificates, names."""
    here = (path for path in (sys.prefix, sys.base_prefix, *sys.path) if path.startswith("/"))
    return tuple(dict.fromkeys((*_READABLE, *here)))


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist, or cannot be reached anyway
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            allowed &= _OF_FILES
        _call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0)
    finally:
        os.close(fd)


def _prctl(option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise _error("prctl")


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise _error("landlock")
    return result


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
