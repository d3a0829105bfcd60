# SPDX-License-Identifier: Apache-2.0
"""How much of a confined process's error report is passed on?

The process may have been compromised by what it read. Its message reaches the user who named the
source, unless the source is hidden from tenants; so it may decide neither that, nor what is
reported about the host. Whether every address was public is decided by the broker. An error of the
host (its storage, a bug) is reported with the text of its class, and the system's reason if it
contains one; an error of the source with its own text, truncated, which only administrators see
unless every address was public.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from typing import Any

from fastdl.errors import BY_CODE, BY_THE_SOURCE, FastdlError, InternalError, error_from

_SENTENCE_MAX = 1000
_SYSTEM = tuple(os.strerror(number) for number in sorted(errno.errorcode))


def error_of(plain: Mapping[str, Any], *, public: bool) -> FastdlError:
    """The error in *plain*, a checked ``child_messages.Failed``; *public*: every address tried is.

    Omitted text goes to standard error, for the agent's log.
    """
    message = plain["message"]
    if plain["code"] in BY_THE_SOURCE:
        text = message[:_SENTENCE_MAX]
    else:
        text = _words_of(BY_CODE.get(plain["code"], InternalError), message)
        plain = {**plain, "origin": None}
        log(message)
    claimed = plain["public_source"]
    return error_from({**plain, "message": text, "public_source": claimed and public})


def log(words: str) -> None:
    """Write *words* of a confined process to the agent's log, as one line marked as its own."""
    line = "".join(c if c.isprintable() else " " for c in words).strip()
    if line:
        sys.stderr.write(f"a confined download says: {line[:_SENTENCE_MAX]}\n")
        sys.stderr.flush()


def _words_of(cls: type[FastdlError], message: str) -> str:
    """The text of *cls*, with the system's reason found in *message*."""
    sentence = " ".join((cls.__doc__ or cls.code_name).split()).rstrip(".")
    reasons = [reason for reason in _SYSTEM if reason in message]
    return f"{sentence}: {max(reasons, key=len)}" if reasons else sentence
