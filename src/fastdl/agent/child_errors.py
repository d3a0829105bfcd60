# SPDX-License-Identifier: Apache-2.0
"""How far does the word of a confined process go, when it says why it failed?

It may have been taken over by what it read. Its sentence reaches whoever named the source, unless
the source is hidden from tenants: so neither that, nor what a host may say of itself, is its own
to decide. Whether every address was public is what the broker saw. An error of the host (its
storage, a bug) is told in the words of its class, with the system's reason where it names one;
an error by the source in its own words, cut, which only administrators see unless all was public.
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
    """The error in *plain*, a checked ``child_messages.Failed``; *public*: all that was tried is.

    What is left out is said on standard error, for the agent's log.
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
    """Put *words* of a confined process into the agent's log, which is where it may say anything:
    one line, marked as its own."""
    line = "".join(c if c.isprintable() else " " for c in words).strip()
    if line:
        sys.stderr.write(f"a confined download says: {line[:_SENTENCE_MAX]}\n")
        sys.stderr.flush()


def _words_of(cls: type[FastdlError], message: str) -> str:
    """The sentence of *cls*, with the reason of the system's in *message*."""
    sentence = " ".join((cls.__doc__ or cls.code_name).split()).rstrip(".")
    reasons = [reason for reason in _SYSTEM if reason in message]
    return f"{sentence}: {max(reasons, key=len)}" if reasons else sentence
