# SPDX-License-Identifier: Apache-2.0
"""Short options that curl, aria2 and wget use differently: the value tells which is meant."""

from __future__ import annotations

from collections.abc import Sequence

from fastdl.cli.job_options import IGNORED

_TRIES = ("-m", "--max-tries", "--tries")
_ENDLESSLY = "--retry=1000000"
_SWITCHES = ("--continue", "--allow-overwrite", "--remote-time", "--content-disposition")


def plain(arguments: Sequence[str]) -> list[str]:
    """*arguments* with each such option in its long form; the rest as it is.

    ``-s N`` and ``-x N`` with a number are aria2's (connections); else ``-s`` is curl's
    (quiet) and ``-x URL`` curl's (a proxy). ``-O FILE`` is wget's where FILE is ``-``;
    ``-C -`` is curl's for resuming. No limit of tries is written 0 by aria2 and wget. aria2
    writes ``=true`` and ``=false`` behind what is on or off; what changes nothing here is dropped.
    """
    out: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*out, word, *words]
        if word in ("-s", "-x", "-O", "-C") and words and _takes(word, words[0]):
            out.append(_long(word, words.pop(0)))
        elif word in _TRIES and words[:1] == ["0"]:
            words.pop(0)
            out.append(_ENDLESSLY)
        elif word in ("-m0", "--max-tries=0", "--tries=0"):
            out.append(_ENDLESSLY)
        elif word.partition("=")[0].removeprefix("--") in IGNORED and "=" in word:
            continue
        elif word == "-k" and words and words[0][:1].isdigit():
            words.pop(0)  # aria2's --min-split-size
        elif word.endswith(("=true", "=false")) and word.partition("=")[0] in _SWITCHES:
            out += [word.removesuffix("=true")] if word.endswith("=true") else []
        elif word[:2] in ("-s", "-x") and word[2:].isdigit():
            out.append(_long(word[:2], word[2:]))
        else:
            out.append(word)
    return out


def _takes(option: str, value: str) -> bool:
    if option == "-s":
        return value.isdigit()
    return option == "-x" or value == "-"


def _long(option: str, value: str) -> str:
    if option == "-C":
        return "--continue"
    if option == "-O":
        return "--output=-"
    if value.isdigit():
        wanted = "--max-connections" if option == "-s" else "--max-connections-per-origin"
    else:
        wanted = "--proxy"
    return f"{wanted}={value}"
