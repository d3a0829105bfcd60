# SPDX-License-Identifier: Apache-2.0
"""``fastdl VERB …``: finds the verb's file, loads only that one, and turns errors into exits."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
from typing import NoReturn

from fastdl.cli import streams
from fastdl.cli.parser import Parser, meant
from fastdl.errors import FastdlError, InternalError, UsageError, shortage

VERBS = {
    "get": "download a source to a file, a folder or a block device, verified",
    "probe": "show size, format, digests and mirrors of a source; write nothing",
    "vol": "make a volume in a pool of libvirt, as virsh vol-create and vol-upload",
    "inspect": "show what an image file is, and whether it is safe",
    "metalink": "describe files by size, digests, pieces and mirrors",
    "keystore": "list, import and delete certificates in a host's keystore",
    "exec": "execute one command of CloudStack's agent, from stdin to stdout",
    "agent": "run on a KVM host and execute a manager's jobs",
    "manager": "run the management server",
    "host": "list, admit, disable, drain and remove a zone's hosts",
    "template": "register templates, bring them to primary storage, watch it",
    "vm": "deploy virtual machines from templates, and see what they print",
    "cert": "list, upload and revoke the certificates that hosts trust",
    "api": "call the manager's API in CloudStack's grammar",
    "demo": "run a whole zone on this machine",
    "bench": "measure against other tools, and guard against regressions",
}

EPILOG = """examples:
  fastdl get https://mirror.example/image.iso -o image.iso --checksum sha-256:HEX
  fastdl get https://mirror.example/image.meta4 -o /dev/vg0/volume
  fastdl probe https://mirror.example/image.qcow2

Each verb has its own --help. Exit codes: docs/errors.md."""


def version_text() -> str:
    """``fastdl --version``: the version and what was built in."""
    from fastdl import __version__
    from fastdl.core.build import features
    from fastdl.engine.transfer import chosen_sha256

    name, _ = chosen_sha256()
    return f"fastdl {__version__} ({', '.join([*features(), f'sha-256 by {name}'])})"


def _help() -> str:
    verbs = "\n".join(f"  {name:<10}{text}" for name, text in VERBS.items())
    return (
        "usage: fastdl [--version] VERB …\n\n"
        "VM templates onto KVM hosts: parallel, verified, straight onto storage.\n\n"
        f"verbs:\n{verbs}\n\n{EPILOG}\n"
    )


def run_verb(name: str, arguments: list[str]) -> int:
    """Load ``cli/<name>.py`` and run it. The verb's own parser handles ``--help``."""
    module = importlib.import_module(f"fastdl.cli.{name}")
    parser = Parser(prog="fastdl")
    # Its own idea of prog takes a formatter, and with it all that help needs.
    module.add_parser(parser.add_subparsers(dest="verb", required=True, prog="fastdl"))
    plain = getattr(module, "plain", list)
    return int(module.run(parser.parse_args([name, *plain(arguments)])))


def report(exc: FastdlError, *, as_json: bool) -> int:
    """One line for people, or one object for programs; returns the class's exit code."""
    with contextlib.suppress(OSError):  # the exit code shows it as well
        if as_json:
            import json

            print(json.dumps({"error": exc.to_dict()}), flush=True)
    with contextlib.suppress(OSError):
        print(f"fastdl: {exc.code_name}: {exc}", file=sys.stderr, flush=True)
    return exc.exit_code


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] in (["help"], ["--help"]) and arguments[1:2] and arguments[1] in VERBS:
        arguments = [arguments[1], "--help", *arguments[2:]]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        streams.say(_help().rstrip())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        streams.say(version_text())
        return 0
    if name not in VERBS:
        nearest = meant(name, VERBS, cutoff=0.7)
        raise UsageError(f"there is no verb {name[:40]!r}{nearest} (fastdl --help lists them)")
    return run_verb(name, rest)


def main(argv: list[str] | None = None) -> int:
    """The ``fastdl`` command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    as_json = "--json" in arguments
    streams.prepare()
    try:
        code = _dispatch(arguments)
        streams.flush_output()  # here a reader that has gone is noticed in time
        return code
    except FastdlError as exc:
        return report(exc, as_json=as_json)
    except KeyboardInterrupt:
        streams.note("fastdl: CANCELLED: interrupted")
        return 130
    except BrokenPipeError:
        streams.discard_output()
        return 141
    except Exception as exc:  # the documented class for a bug, where it is none of the machine's
        if os.environ.get("FASTDL_DEBUG"):
            raise
        return report(shortage(exc) or _bug(exc), as_json=as_json)


def _bug(exc: Exception) -> FastdlError:
    return InternalError(
        f"a bug in fastdl: {type(exc).__name__}: {exc} (FASTDL_DEBUG=1 shows where)"
    )


def entry() -> NoReturn:
    """The process's entry point: `main`, with a short way in and out for ``get`` and ``probe``.

    Looking for garbage among what has just been imported, and taking the interpreter down
    object by object, is a quarter of what starting and ending a download costs; all that these
    two hold goes with the process.
    """
    brief = sys.argv[1:2] in (["get"], ["probe"])
    if brief:
        gc.disable()
    code = main()
    streams.settle()
    if brief and threading.active_count() == 1:
        os._exit(code)
    sys.exit(code)
