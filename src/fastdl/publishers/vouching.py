# SPDX-License-Identifier: Apache-2.0
"""What does a fetched checksum list say about a source, and who signed it?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastdl.errors import ChecksumListError, PolicyError
from fastdl.model.digest import Digest
from fastdl.model.url import METALINK_SUFFIXES, Url
from fastdl.publishers.beside import path_seen_from
from fastdl.publishers.checksum_list import digest_of, read_list
from fastdl.publishers.clearsigned import is_clearsigned, signed_text
from fastdl.publishers.signer import Signer

if TYPE_CHECKING:
    from fastdl.publishers.signatures import Keyring


class Reference(NamedTuple):
    """A list: its location, and its name for the file (None: the source's own)."""

    url: Url
    name: str | None


def parse_reference(text: str) -> Reference:
    """Parse ``URL``, ``URL#NAME`` or a path. Errors as ``Url.parse``."""
    place, _, name = text.strip().partition("#")
    if "://" not in place:
        return Reference(Url.parse(text.strip()), None)
    return Reference(Url.parse(place), name or None)


def signed_part(
    url: Url, data: bytes, keyring: Keyring | None, signatures: Iterable[bytes]
) -> tuple[bytes, Signer | None]:
    """The text of the list *data* from *url* that counts, and who signed it.

    *keyring*: the keys one of which must have signed it, None for no check. *signatures*: the
    detached ones next to it. Errors as ``Keyring.signed_text``.
    """
    if keyring is not None:
        signer, text = keyring.signed_text(data, signatures, url.display())
        return text, signer
    return (signed_text(data) if is_clearsigned(data) else data), None


def digest_for(listed_in: Url, text: bytes, sources: Sequence[Url], name: str | None) -> Digest:
    """The entry of the list *text* for the file *name*; for the *sources*' own names if None.

    ChecksumListError: nothing, or different digests for the sources.
    """
    entries = read_list(text, called=listed_in.last_segment() or "")
    if name is not None:
        return digest_of(entries, name)
    names = {
        called: path_seen_from(listed_in, url)
        for url in reversed(sources)
        if (called := file_name(url))
    }
    if not names:
        raise ChecksumListError(
            "the source's URL ends in no file name: name the list's entry with #NAME",
            phase="resolve",
        )
    failed: ChecksumListError | None = None
    found: list[Digest] = []
    for called, path in names.items():
        try:
            found.append(digest_of(entries, called, path=path))
        except ChecksumListError as exc:
            failed = exc.add_context(origin=listed_in.display())
    if not found:
        assert failed is not None
        raise failed
    if any(digest != found[0] for digest in found):
        raise ChecksumListError(
            "the checksum list gives the sources different digests: they are not mirrors of one "
            "file",
            phase="resolve",
        )
    return found[0]


def check_strength(url: Url, digest: Digest, signer: Signer | None) -> str | None:
    """The warning, None if there is none; PolicyError for a signed weak digest."""
    if digest.strength == "strong":
        return None
    if signer is not None:
        raise PolicyError(
            f"{url.display()} is signed, but gives a {digest.algorithm} only, whose collisions "
            "can be made",
            phase="resolve",
        )
    return (
        f"{url.display()} gives a {digest.algorithm} only, which finds accidents and no attackers "
        "(integrity weak)"
    )


def file_name(url: Url) -> str | None:
    """The name of the file at *url* in a list: without a metalink's suffix."""
    called = url.last_segment()
    for suffix in METALINK_SUFFIXES:
        if called and called.lower().endswith(suffix):
            return called[: -len(suffix)] or None
    return called
