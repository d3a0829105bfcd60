# SPDX-License-Identifier: Apache-2.0
"""How is each program told to bring one URL to one target, as fast as it can?

A URL may hold a secret, and other users can read command lines: programs get it by standard input.
Those that cannot are left out where it has a password or a query.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable

from fastdl.model.url import Url
from fastdl.named_tuple import NamedTuple


class Task(NamedTuple):
    """What every tool has to do. *size* in bytes; *device*: *target* is a block device.

    *digest* ``sha-256:HEX``, None while unknown; *cacert* a file of authorities; *overwrite* is
    passed to ``fastdl get``.
    """

    urls: tuple[str, ...]
    target: str
    size: int
    device: bool
    digest: str | None = None
    cacert: str | None = None
    overwrite: str | None = None


class Call(NamedTuple):
    """A command, and what it reads from standard input."""

    argv: tuple[str, ...]
    stdin: str = ""


class Tool(NamedTuple):
    """*needs*: programs that must be installed. *files_only*: it cannot write a device.

    *shows_url*: it takes the URL on its command line only. *own_trust*: it cannot be given a file
    of authorities.
    """

    name: str
    needs: tuple[str, ...]
    call: Callable[[Task], Call]
    files_only: bool = False
    shows_url: bool = False
    own_trust: bool = False


def reason_against(tool: Tool, task: Task) -> str | None:
    """Why *tool* cannot take part in *task* here; None where it can."""
    absent = [name for name in tool.needs if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    url = Url.parse(task.urls[0])
    if tool.files_only and task.device:
        return "writes files only"
    if tool.shows_url and (url.username is not None or url.query is not None):
        return "would show the URL's secret in the list of processes"
    if tool.own_trust and task.cacert is not None:
        return "cannot be given a file of authorities"
    return None


def get(task: Task, *options: str, target: str | None = None) -> Call:
    """``fastdl get``, with its defaults and *options*."""
    lines = ["\t".join(task.urls), f" output={target or task.target}"]
    if task.digest is not None:
        lines.append(f" checksum={task.digest}")
    argv = [sys.executable, "-P", "-m", "fastdl", "get", "-i", "-", "--json", "--progress", "none"]
    if task.cacert is not None:
        argv += ["--cacert", task.cacert]
    if task.overwrite is not None and target is None:
        argv += ["--overwrite", task.overwrite]
    return Call((*argv, *options), "\n".join(lines) + "\n")


def _curl(task: Task) -> Call:
    trust = ("--cacert", task.cacert) if task.cacert else ()
    argv = ("curl", "-q", "-sSfL", *trust, "-o", task.target, "-K", "-")
    return Call(argv, f'url = "{task.urls[0]}"\n')


def _wget(task: Task) -> Call:
    trust = (f"--ca-certificate={task.cacert}",) if task.cacert else ()
    return Call(
        ("wget", "--no-config", "-q", *trust, "-O", task.target, "-i", "-"), task.urls[0] + "\n"
    )


def _wget2(task: Task) -> Call:
    trust = (f"--ca-certificate={task.cacert}",) if task.cacert else ()
    # Its "-i -" never ends.
    words = ("-O", task.target, "-i", "/dev/stdin")
    return Call(("wget2", "--no-config", "-q", *trust, *words), task.urls[0] + "\n")


def _aria2c(task: Task) -> Call:
    trust = (f"--ca-certificate={task.cacert}",) if task.cacert else ()
    folder, _, name = task.target.rpartition("/")
    argv = ("aria2c", "--no-conf", "-q", "-x8", "-s8", "-k1M", "--file-allocation=none")
    listed = "\t".join(task.urls) + f"\n  out={name}\n"
    return Call((*argv, "--allow-overwrite=true", *trust, "-d", folder, "-i", "-"), listed)


def _axel(task: Task) -> Call:
    return Call(("axel", "-q", "-n", "8", "-o", task.target, *task.urls))


def _nbdcopy(task: Task) -> Call:
    trust = (f"cainfo={task.cacert}",) if task.cacert else ()
    copy = f'nbdcopy --request-size=4194304 "$uri" {_quoted(task.target)}'
    serve = ("nbdkit", "-r", "-U", "-", "curl", f"url={task.urls[0]}", *trust)
    return Call((*serve, "--run", copy))


def _qemu_img(task: Task) -> Call:
    scheme = Url.parse(task.urls[0]).scheme
    source = {
        "driver": "raw",
        "file.driver": scheme,
        "file.url": task.urls[0],
        "file.readahead": 4 << 20,
    }
    there = ("-n", "-t", "none") if task.device else ()
    words = ("convert", "-O", "raw", *there, "json:" + json.dumps(source), task.target)
    return Call(("qemu-img", *words))


def _quoted(word: str) -> str:
    from shlex import quote

    return quote(word)


TOOLS = (
    Tool("fastdl", (), get),
    Tool("curl", ("curl",), _curl),
    Tool("wget", ("wget",), _wget),
    Tool("wget2", ("wget2",), _wget2, files_only=True),
    Tool("aria2c", ("aria2c",), _aria2c, files_only=True),
    Tool("axel", ("axel",), _axel, files_only=True, shows_url=True, own_trust=True),
    Tool("nbdcopy", ("nbdkit", "nbdcopy"), _nbdcopy, shows_url=True),
    Tool("qemu-img", ("qemu-img",), _qemu_img, shows_url=True, own_trust=True),
)
