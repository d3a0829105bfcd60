# SPDX-License-Identifier: Apache-2.0
"""From the name of a target to its sink."""

from __future__ import annotations

import importlib
import os
import stat
from typing import cast

from fastdl import fs
from fastdl.errors import SinkRefusedError, UsageError, shortage
from fastdl.sinks.base import Permit, Sink, sink_error
from fastdl.sinks.file import FileSink
from fastdl.sinks.paths import Policy, check_name, open_folder, safe_name

_NBD_SCHEMES = ("nbd://", "nbds://", "nbd+unix://", "nbds+unix://")


def open_sink(
    target: str,
    *,
    name_hint: str | None = None,
    overwrite: str | None = None,
    resume: bool = True,
    policy: Policy = "user",
    beneath: str | None = None,
    permit: Permit | None = None,
) -> Sink:
    """Open *target* for a job, or refuse; nothing that it holds has been changed on return.

    target     a file, an existing folder, a block device, an NBD URI or ``null:``
    name_hint  a stranger's proposal for the name in a folder (a URL's last segment, decoded)
    overwrite  ``file``: an existing file may be replaced; else the signatures on a device that
               may be destroyed, as blkid spells them
    resume     keep what an earlier job left
    policy     ``strict``: no symbolic link on the way to a file
    beneath    the pool's folder: a file must lie inside, whatever the policy
    permit     whether what a device holds is an earlier run's, see ``Sink.refusal``

    Raises UsageError, SinkRefusedError, SinkBusyError, SinkSpaceError, SinkIOError.
    """
    if target == "null:":
        from fastdl.sinks.null import NullSink  # rare

        return NullSink()
    if target.startswith(_NBD_SCHEMES):
        return _open_nbd(target, overwrite=overwrite, resume=resume, permit=permit)
    if not target or "\0" in target:
        raise UsageError("the target needs a name")
    if beneath is None and is_device(target):
        from fastdl.sinks.block import BlockSink  # not for a file's start-up

        return BlockSink(target, overwrite=overwrite, resume=resume, permit=permit)
    folder_fd, name, path = locate(target, name_hint=name_hint, policy=policy, beneath=beneath)
    return FileSink(folder_fd, name, path=path, replace=overwrite == "file", resume=resume)


def is_device(target: str) -> bool:
    """Whether *target* names a block device, links like those of /dev/disk/by-id included."""
    try:
        return stat.S_ISBLK(os.stat(target).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def existing_file(target: str, *, name_hint: str | None = None) -> str | None:
    """The path of the regular file that *target* already is, for a caller to compare; or None."""
    path = target
    if os.path.isdir(target) and name_hint:  # noqa: PTH112
        path = _path_in(target, safe_name(name_hint))
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return path if stat.S_ISREG(found.st_mode) else None


def locate(
    target: str, *, name_hint: str | None, policy: Policy, beneath: str | None
) -> tuple[int, str, str]:
    """The opened folder (owned by the caller), the name in it, and the path for messages."""
    folder, _, name = target.rpartition("/")
    parent = folder or ("/" if target.startswith("/") else ".")
    is_pool = beneath is not None and target.rstrip("/") == beneath.rstrip("/")
    if name in {"", ".", ".."} or is_pool:
        return _in_folder(target, name_hint, policy=policy, beneath=beneath)
    parent_fd = open_folder(parent, policy=policy, beneath=beneath)
    try:
        # Under `user` a link to a folder is a folder; else it is refused when opened.
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=policy == "user" and not beneath)
        is_folder = stat.S_ISDIR(found.st_mode)
    except FileNotFoundError:
        is_folder = False
    except OSError as error:
        fs.close(parent_fd)
        raise sink_error(error, f"opening {target}") from None
    if is_folder:
        fs.close(parent_fd)
        return _in_folder(target, name_hint, policy=policy, beneath=beneath)
    try:
        return parent_fd, check_name(name), target
    except SinkRefusedError:
        fs.close(parent_fd)
        raise


def _in_folder(
    folder: str, name_hint: str | None, *, policy: Policy, beneath: str | None
) -> tuple[int, str, str]:
    if not name_hint:
        raise UsageError(f"{folder} is a folder and the source proposes no file name: add one")
    name = safe_name(name_hint)
    folder_fd = open_folder(folder, policy=policy, beneath=beneath)
    return folder_fd, name, _path_in(folder, name)


def _path_in(folder: str, name: str) -> str:
    """As it is shown: without a dot for the current folder."""
    return name if folder == "." else f"{folder.rstrip('/')}/{name}"


def _open_nbd(target: str, *, overwrite: str | None, resume: bool, permit: Permit | None) -> Sink:
    """`fastdl.sinks.nbd.open_nbd(target, …)`, where it was built."""
    try:
        module = importlib.import_module("fastdl.sinks.nbd")
    except ImportError as error:
        raise shortage(error) or UsageError(
            "this fastdl was built without NBD: install libnbd's headers and build it again"
        ) from None
    return cast("Sink", module.open_nbd(target, overwrite=overwrite, resume=resume, permit=permit))
