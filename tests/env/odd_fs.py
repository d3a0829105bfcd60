# SPDX-License-Identifier: Apache-2.0
"""How does a file system look that lacks what POSIX promises?

Two ways: a library that is preloaded and refuses chosen system calls as such file systems do
(the kernels of test machines have no NFS, SMB or exFAT), and real FUSE mounts by ``bindfs``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.env.tmpfs import tmpfs

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* REFUSE=call:errno,call:errno... */
static int refused(const char *call)
{
    const char *list = getenv("REFUSE"), *at = list ? strstr(list, call) : NULL;
    if (!at || at[strlen(call)] != ':')
        return 0;
    errno = atoi(at + strlen(call) + 1);
    return 1;
}
#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

int flock(int fd, int op)
{
    return refused("flock") ? -1 : REAL("flock", int (*)(int, int))(fd, op);
}
int fcntl64(int fd, int command, ...)
{
    va_list words;
    va_start(words, command);
    void *word = va_arg(words, void *);
    va_end(words);
    if (command == F_OFD_SETLK && refused("ofd"))
        return -1;
    return REAL("fcntl64", int (*)(int, int, ...))(fd, command, word);
}
int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && refused("dirsync"))
        return -1;
    return REAL("fsync", int (*)(int))(fd);
}
int renameat2(int a, const char *b, int c, const char *d, unsigned flags)
{
    if (flags && refused("noreplace"))
        return -1;
    return REAL("renameat2", int (*)(int, const char *, int, const char *, unsigned))(
        a, b, c, d, flags);
}
int renameat(int a, const char *b, int c, const char *d)
{
    if (refused("rename"))
        return -1;
    return REAL("renameat", int (*)(int, const char *, int, const char *))(a, b, c, d);
}
int linkat(int a, const char *b, int c, const char *d, int flags)
{
    if (refused("link"))
        return -1;
    return REAL("linkat", int (*)(int, const char *, int, const char *, int))(a, b, c, d, flags);
}
int fchmod(int fd, mode_t mode)
{
    return refused("chmod") ? -1 : REAL("fchmod", int (*)(int, mode_t))(fd, mode);
}
int fallocate64(int fd, int mode, off64_t at, off64_t length)
{
    if (refused("fallocate"))
        return -1;
    return REAL("fallocate64", int (*)(int, int, off64_t, off64_t))(fd, mode, at, length);
}
"""


def build_refusals(folder: Path) -> Path:
    """The library to preload; ``REFUSE=call:errno,…`` in its environment names what fails."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source, library = folder / "refuse.c", folder / "refuse.so"
    source.write_text(_SOURCE)
    command = ["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def refusing(library: Path, **calls: int) -> list[str]:
    """The words before a command that make *calls* fail with these errnos."""
    named = ",".join(f"{call}:{number}" for call, number in calls.items())
    return ["env", f"LD_PRELOAD={library}", f"REFUSE={named}"]


@contextlib.contextmanager
def bind_mount(folder: Path, *options: str) -> Iterator[Path]:
    """A FUSE mount of an empty folder with ``bindfs`` OPTIONS, unmounted at the end."""
    if shutil.which("bindfs") is None:
        pytest.skip("bindfs is not installed")
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("FUSE mounts need root and /dev/fuse")
    real, mount = folder / "real", folder / "mount"
    real.mkdir()
    mount.mkdir()
    subprocess.run(["bindfs", *options, str(real), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@contextlib.contextmanager
def overlay(folder: Path) -> Iterator[Path]:
    """An overlay whose upper layer is on another file system than the lower one."""
    lower, upper, mount = folder / "lower", folder / "upper", folder / "merged"
    lower.mkdir()
    mount.mkdir()
    with tmpfs(upper, "64m"):
        (upper / "files").mkdir()
        (upper / "work").mkdir()
        layers = f"lowerdir={lower},upperdir={upper / 'files'},workdir={upper / 'work'}"
        made = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(mount)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if made.returncode:
            pytest.skip(f"no overlay: {made.stderr.strip()}")
        try:
            yield mount
        finally:
            subprocess.run(["umount", str(mount)], check=True, timeout=30)
