# SPDX-License-Identifier: Apache-2.0
"""Writes the reference of the commands from their parsers: what ``--help`` says, everywhere.

docs/commands.md for readers, packaging/share for the system: a man page per verb, completions for
bash and zsh.

python -m scripts.reference            writes them
python -m scripts.reference --check    lists those that are out of date, and exits with 1
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage  # type: ignore[import-untyped]

import fastdl
from fastdl.cli import formatter
from fastdl.cli.main import VERBS
from fastdl.cli.parser import Parser

ROOT = Path(__file__).resolve().parents[1]
SHARE = Path("packaging/share")

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by scripts/reference.py from the parsers in src/fastdl/cli: edit those. -->
# Commands

What `fastdl VERB --help` prints. The same text is installed as man pages (`man fastdl`,
`man fastdl-get`) and as completions for bash and zsh. Every exit code is in [errors](errors.md).
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Verb → its parser, in the order of ``fastdl --help``."""
    return dict(_inner(_whole()))


def _whole() -> argparse.ArgumentParser:
    formatter._WIDTH = 98  # help is wrapped the same on every terminal
    parser = Parser(
        prog="fastdl",
        description="VM templates onto KVM hosts: parallel, verified, straight onto storage.",
    )
    parser.add_argument("--version", action="version", version=fastdl.__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in VERBS:
        importlib.import_module(f"fastdl.cli.{name}").add_parser(verbs)
    return parser


def files() -> dict[Path, str]:
    """Path below the checkout → what it should hold."""
    man = SHARE / "man" / "man1"
    found = parsers()
    pages = {man / f"fastdl-{name}.1": _man(name, parser) for name, parser in found.items()}
    return {
        Path("docs/commands.md"): _page(found),
        man / "fastdl.1": _overview(),
        **pages,
        SHARE / "bash-completion/completions/fastdl": _completion("bash"),
        SHARE / "zsh/site-functions/_fastdl": _completion("zsh"),
    }


def _page(found: Mapping[str, argparse.ArgumentParser]) -> str:
    parts = [HEAD, "| verb | what it does |", "|---|---|"]
    parts += [f"| [{name}](#fastdl-{name}) | {text} |" for name, text in VERBS.items()]
    for name, parser in found.items():
        parts += ["", f"## fastdl {name}", "", "```text", parser.format_help().rstrip(), "```"]
        for inner in _inner(parser).values():
            parts += ["", f"### {inner.prog}", "", "```text", inner.format_help().rstrip(), "```"]
    return "\n".join(parts) + "\n"


def _inner(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


# --- man pages ---------------------------------------------------------------------------------


def _man(name: str, parser: argparse.ArgumentParser) -> str:
    """The man page of a verb: its options, and the paragraphs below them as sections."""
    below, parser.epilog = parser.epilog or "", None
    body = str(Manpage(parser)).split(".SH SYNOPSIS", 1)[1]
    parser.epilog = below
    body = re.sub("(?m)^'", r"\\&'", body)  # a help text that starts with one is no macro
    summary = f"fastdl\\-{name} \\- {_roff(VERBS[name])}"
    also = ".BR fastdl (1)"
    return (
        f"{_title(f'FASTDL-{name.upper()}')}\n.SH NAME\n{summary}\n.SH SYNOPSIS{body.rstrip()}\n"
        f"{_sections(below)}.SH SEE ALSO\n{also}\n"
    )


def _overview() -> str:
    verbs = "\n".join(
        f".TP\n.BR fastdl\\-{name} (1)\n{_roff(text)}" for name, text in VERBS.items()
    )
    return (
        f"{_title('FASTDL')}\n.SH NAME\nfastdl \\- bring VM templates onto KVM hosts\n"
        ".SH SYNOPSIS\n.B fastdl\n[\\-\\-version] VERB [options]\n.SH DESCRIPTION\n"
        "Brings VM templates and ISOs from their origin straight onto a KVM host's storage: from\n"
        "several mirrors in parallel, verified in the same pass, durable before it says so.\n"
        f".SH VERBS\n{verbs}\n.SH EXIT STATUS\nZero: verified as far as a checksum was known,\n"
        "durable, published. Any other status names one class of failure;\n"
        ".IR docs/errors.md\nlists them.\n"
    )


def _title(name: str) -> str:
    return f'.TH {_roff(name)} 1 "" "fastdl {fastdl.__version__}" "fastdl manual"'


def _sections(text: str) -> str:
    """Paragraphs that begin with a word and a colon are sections, the rest are notes."""
    found: dict[str, list[str]] = {}
    heading = "NOTES"
    for paragraph in text.split("\n\n"):
        matched = re.match(r"(\w+(?: \w+)?):[ \n]", paragraph)
        heading = matched[1].upper() if matched else "NOTES"
        lines = paragraph[matched.end() :] if matched else paragraph
        found.setdefault(heading, []).append(lines.strip("\n"))
    out = ""
    for heading, paragraphs in found.items():
        name = {"EXAMPLE": "EXAMPLES", "EXIT CODES": "EXIT STATUS"}.get(heading, heading)
        out += f".SH {name}\n" + ".PP\n".join(map(_paragraph, paragraphs))
    return out if text else ""


def _paragraph(text: str) -> str:
    lines = "\n".join(map(_roff, text.splitlines()))
    return f".nf\n{lines}\n.fi\n" if text.startswith(" ") else f"{lines}\n"


def _roff(text: str) -> str:
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe


# --- completions -------------------------------------------------------------------------------

_FILES = {
    *("output", "cacert", "keystore", "cert", "key", "key_pass_file", "keystore_pass_file"),
    *("config", "credentials", "pass_file", "token_file", "tls_cert", "tls_key", "file", "image"),
}
_FOLDERS = {"state", "config_dir", "work"}


def _completion(shell: str) -> str:
    parser = _whole()
    for one in _inner(parser).values():
        for leaf in (one, *_inner(one).values()):
            for action in leaf._actions:
                if action.dest in _FILES:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
                elif action.dest in _FOLDERS:
                    action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return shtab.complete(parser, shell=shell)


def main(arguments: list[str]) -> int:
    """Write or check the files."""
    wrong = 0
    for path, text in files().items():
        there = ROOT / path
        if arguments == ["--check"]:
            if not there.exists() or there.read_text(encoding="utf-8") != text:
                print(f"{path} is out of date: run python -m scripts.reference", file=sys.stderr)
                wrong = 1
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text, encoding="utf-8")
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
