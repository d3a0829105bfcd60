# SPDX-License-Identifier: Apache-2.0
"""Did one of the keyring's keys sign the file that has landed? Checked before it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.errors import PolicyError
from fastdl.publishers.signatures import Content, read_keyring

if TYPE_CHECKING:
    from fastdl.engine.context import TransferContext
    from fastdl.engine.source.facts import SourceFacts


def check_signatures(facts: SourceFacts, fd: int, size: int, ctx: TransferContext) -> str:
    """Who signed the first *size* bytes of *fd*, which are the source's.

    IntegrityError: none of the signatures is valid. UsageError: it cannot be checked here.
    """
    assert ctx.options.keyring is not None
    keyring = read_keyring(ctx.options.keyring)
    content = Content(facts.urls[0].display(), fd=fd, size=size)
    ctx.cancel.check()
    return str(keyring.signer(content, facts.signatures))


def refuse_unreadable(kind: str) -> None:
    """PolicyError for a target of *kind*, of which nothing can be checked before it is there."""
    raise PolicyError(
        f"only the file itself is signed, and a {kind} target cannot be checked before it is used: "
        "fetch to a file first",
        phase="resolve",
    )
