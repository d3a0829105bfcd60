# SPDX-License-Identifier: Apache-2.0
"""How does a confined process connect? The process that started it makes its connections.

Its connect(2) and bind(2) wait (seccomp_unotify(2)) until this process has copied and checked the
address and executed the call on the same socket. The confined process does not notice. The broker
never blocks: neither on a connection nor if the confined process clears O_NONBLOCK meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Container

from fastdl.agent.reach import Reach
from fastdl.named_tuple import NamedTuple
from fastdl.sinks.syscalls import libc

_RECV, _SEND, _VALID = 0xC0502100, 0xC0182101, 0x40082102  # SECCOMP_IOCTL_NOTIF_*
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_PIDFD_GETFD = 438
_CONNECT, _BIND = {"x86_64": (42, 49), "aarch64": (203, 200)}.get(os.uname().machine, (-1, -1))
_ADDRESS_SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}
_LONGEST = 128
_CAP_SYS_PTRACE = 1 << 19
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_AT_ONCE, _FOR_EVER = struct.pack("=qq", 0, 1), struct.pack("=qq", 0, 0)
"""The shortest SO_SNDTIMEO, one microsecond, and none. It bounds connect(2) whether or not
O_NONBLOCK is set, and a confined process cannot set it (``csrc/base/confine_args.c``)."""
_CONNECTING_MAX = 64
"""Calls that may wait for their connections at the same time."""


class _Call(NamedTuple):
    """A bind or connect whose caller waits for the result."""

    number: int
    name: str
    sock: socket.socket
    address: bytes


def can_broker() -> bool:
    """Whether this process may inspect confined ones, which requires CAP_SYS_PTRACE."""
    with contextlib.suppress(OSError), open(_YAMA, "rb") as file:  # noqa: PTH123
        if file.read(1) == b"3":
            return False
    header, data = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, data):
        return False
    return bool(struct.unpack_from("=I", data)[0] & _CAP_SYS_PTRACE) and hasattr(os, "pidfd_open")


class Broker:
    """Connects on behalf of the process *pid*, as far as *reach* allows.

    *number* is the listener's descriptor in that process. Raises OSError if it cannot be obtained.
    """

    def __init__(self, pid: int, number: int, reach: Reach) -> None:
        self._reach = reach
        self._connecting: dict[int, _Call] = {}
        self._pidfd = os.pidfd_open(pid)
        try:
            self.listener = _descriptor(self._pidfd, number)
        except BaseException:
            os.close(self._pidfd)
            raise

    @property
    def connecting(self) -> tuple[int, ...]:
        """Sockets of waiting calls: writable once connected or failed."""
        return tuple(self._connecting)

    def serve(self, ready: Container[int]) -> None:
        """Handle the calls that are *ready*: the listener, and sockets of ``connecting``.

        Does nothing if the caller is gone.
        """
        for fd in self.connecting:
            if fd in ready:
                self._execute(self._connecting.pop(fd))
        if self.listener in ready:
            self._take_call()

    def close(self) -> None:
        """Stop; waiting calls fail."""
        for call in self._connecting.values():
            call.sock.close()
        os.close(self.listener)
        os.close(self._pidfd)

    def _take_call(self) -> None:
        buffer = bytearray(_REQUEST.size)
        try:
            fcntl.ioctl(self.listener, _RECV, buffer)
        except OSError:
            return
        number, thread, _, system_call, _, _, *arguments = _REQUEST.unpack(buffer)
        name = "bind" if system_call == _BIND else "connect"
        try:
            address = self._address(number, thread, *arguments[1:3])
            sock = _socket(self._pidfd, arguments[0] & 0xFFFFFFFF)
        except OSError as exc:
            self._answer(number, exc.errno or errno.EPERM)
            return
        call = _Call(number, name, sock, address)
        try:
            self._check(sock, name, address)
        except OSError as exc:
            self._end(call, exc.errno or errno.EPERM)
        else:
            self._execute(call)

    def _address(self, number: int, thread: int, where: int, length: int) -> bytes:
        if not 2 <= length <= _LONGEST:
            raise OSError(errno.EINVAL, "the address has an invalid length")
        address = _read_memory(thread, where, length)
        # The thread may have died, and its id been reused by another process.
        fcntl.ioctl(self.listener, _VALID, struct.pack("=Q", number))
        return address

    def _execute(self, call: _Call) -> None:
        """Try *call*; return its result to the caller, or keep it until its socket is ready."""
        fd = call.sock.fileno()
        code = _attempt(call)
        if code in {errno.EINPROGRESS, errno.EALREADY} and os.get_blocking(fd):
            if len(self._connecting) < _CONNECTING_MAX:
                self._connecting[fd] = call
                return
            code = errno.EAGAIN
        self._end(call, code)

    def _end(self, call: _Call, code: int) -> None:
        call.sock.close()
        self._answer(call.number, code)

    def _answer(self, number: int, code: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(number, 0, -code, 0))

    def _check(self, sock: socket.socket, name: str, address: bytes) -> None:
        """Raise the refusal."""
        (family,) = struct.unpack_from("=H", address)
        if family == socket.AF_UNSPEC and sock.type == socket.SOCK_DGRAM and name == "connect":
            return  # disconnect from a peer
        if sock.family not in _ADDRESS_SIZES or family != sock.family:
            raise OSError(errno.EACCES, "not an Internet address")
        if len(address) < _ADDRESS_SIZES[sock.family]:
            raise OSError(errno.EINVAL, "the address is truncated")
        if name == "bind":
            if not self._reach.may_bind(address):
                raise OSError(errno.EACCES, "it may not bind an address")
        elif sock.type == socket.SOCK_DGRAM:
            # The resolver does this for every address, to sort them by proximity.
            if not self._reach.may_ask(address):
                raise OSError(errno.ENETUNREACH, "datagrams may only go to name servers")
        elif not self._reach.may_connect(address):
            raise OSError(errno.EACCES, "this job may not connect there")


def _attempt(call: _Call) -> int:
    """The errno of *call* after one attempt, 0 for none. Never blocks."""
    call.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _AT_ONCE)
    try:
        failed = getattr(libc, call.name)(call.sock.fileno(), call.address, len(call.address))
        return ctypes.get_errno() if failed else 0
    finally:
        call.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _FOR_EVER)


def _descriptor(pidfd: int, number: int) -> int:
    """Duplicate descriptor *number* of that process into ours."""
    found = int(libc.syscall(_PIDFD_GETFD, pidfd, number, 0))
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
    got = libc.process_vm_readv(
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
