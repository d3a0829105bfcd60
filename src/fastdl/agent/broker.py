# SPDX-License-Identifier: Apache-2.0
"""How does a confined process connect? The process that started it makes its connections.

Its connect(2) and bind(2) wait (seccomp_unotify(2)) until this process has copied and checked the
address and executed the call on the same socket. The confined process does not notice.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct

from fastdl.agent.reach import Reach

_RECV, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102  # SECCOMP_IOCTL_NOTIF_*
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_PIDFD_GETFD = 438
_CONNECT, _BIND = {"x86_64": (42, 49), "aarch64": (203, 200)}.get(platform.machine(), (-1, -1))
_ADDRESS_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}
_LONGEST = 128
_CAP_SYS_PTRACE = 1 << 19
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_WAIT = struct.pack("=qq", 5, 0)
"""Seconds that one connection of the resolver may block everything else."""


def can_broker() -> bool:
    """Whether this process may inspect confined ones, which requires CAP_SYS_PTRACE."""
    with contextlib.suppress(OSError), open(_YAMA, "rb") as file:  # noqa: PTH123
        if file.read(1) == b"3":
            return False
    header, data = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    if _libc().capget(header, data):
        return False
    return bool(struct.unpack_from("=I", data)[0] & _CAP_SYS_PTRACE) and hasattr(os, "pidfd_open")


class Broker:
    """Connects on behalf of the process *pid*, as far as *reach* allows.

    *number* is the listener's descriptor in that process. Raises OSError if it cannot be obtained.
    """

    def __init__(self, pid: int, number: int, reach: Reach) -> None:
        self._reach = reach
        self._pidfd = os.pidfd_open(pid)
        try:
            self.listener = _descriptor(self._pidfd, number)
        except BaseException:
            os.close(self._pidfd)
            raise

    def serve(self) -> None:
        """Handle the waiting call; does nothing if its caller is gone."""
        buffer = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(self.listener, _RECV, buffer)
        except OSError:
            return
        number, thread, _, call, _, _, *arguments = _REQUEST.unpack(buffer)
        try:
            self._execute(number, thread, call, arguments)
            answer = _ANSWER.pack(number, 0, 0, 0)
        except OSError as exc:
            answer = _ANSWER.pack(number, 0, -(exc.errno or errno.EPERM), 0)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.listener, _SEND, answer)

    def close(self) -> None:
        """Stop; waiting calls fail."""
        os.close(self.listener)
        os.close(self._pidfd)

    def _execute(self, number: int, thread: int, call: int, arguments: list[int]) -> None:
        fd, where, length = arguments[:3]
        if not 2 <= length <= _LONGEST:
            raise OSError(errno.EINVAL, "the address has an invalid length")
        address = _read_memory(thread, where, length)
        # The thread may have died, and its id been reused by another process.
        fcntl.ioctl(self.listener, _VALID, struct.pack("=Q", number))
        with _socket(self._pidfd, fd & 0xFFFFFFFF) as sock:
            self._check(sock, call, address)
            if call == _BIND:
                _call("bind", sock.fileno(), address)
            else:
                _connect(sock, address)

    def _check(self, sock: socket.socket, call: int, address: bytes) -> None:
        """Raise the refusal."""
        (family,) = struct.unpack_from("=H", address)
        if family == socket.AF_UNSPEC and sock.type == socket.SOCK_DGRAM and call == _CONNECT:
            return  # disconnect from a peer
        if sock.family not in _ADDRESS_SIZES or family != sock.family:
            raise OSError(errno.EACCES, "not an Internet address")
        if len(address) < _ADDRESS_SIZES[sock.family]:
            raise OSError(errno.EINVAL, "the address is truncated")
        if call == _BIND:
            if not self._reach.may_bind(address):
                raise OSError(errno.EACCES, "it may not bind an address")
        elif sock.type == socket.SOCK_DGRAM:
            # The resolver does this for every address, to sort them by proximity.
            if not self._reach.may_ask(address):
                raise OSError(errno.ENETUNREACH, "datagrams may only go to name servers")
        elif not self._reach.may_connect(address):
            raise OSError(errno.EACCES, "this job may not connect there")


def _connect(sock: socket.socket, address: bytes) -> None:
    blocking = os.get_blocking(sock.fileno()) and sock.type == socket.SOCK_STREAM
    if blocking:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, len(_WAIT))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _WAIT)
    try:
        _call("connect", sock.fileno(), address)
    finally:
        if blocking:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, before)


def _call(name: str, fd: int, address: bytes) -> None:
    if getattr(_libc(), name)(fd, address, len(address)):
        raise OSError(ctypes.get_errno(), name)


def _descriptor(pidfd: int, number: int) -> int:
    """Duplicate descriptor *number* of that process into ours."""
    found = int(_libc().syscall(_PIDFD_GETFD, pidfd, number, 0))
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return found


def _socket(pidfd: int, number: int) -> socket.socket:
    """``_descriptor``, which must be a socket."""
    fd = _descriptor(pidfd, number)
    try:
        return socket.socket(fileno=fd)
    except BaseException:
        os.close(fd)
        raise


class _Range(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _read_memory(thread: int, where: int, length: int) -> bytes:
    """*length* bytes of that thread's memory."""
    out = ctypes.create_string_buffer(length)
    here = _Range(ctypes.addressof(out), length)
    there = _Range(where, length)
    got = _libc().process_vm_readv(
        thread,
        ctypes.byref(here),
        ctypes.c_ulong(1),
        ctypes.byref(there),
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
    )
    if got != length:
        raise OSError(errno.EFAULT, "the address cannot be read")
    return out.raw


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
