# SPDX-License-Identifier: Apache-2.0
"""Who vouches for a source's digests: checksum lists, and the signatures of those and of metalinks.

Without a keyring a list is believed as the command's own checksum is, where the operator named
it; one that was only found beside the image is no more than the origin's word. With a keyring
nothing counts that nobody signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.engine.source.documents import fetch_document
from fastdl.errors import (
    ChecksumListError,
    HttpStatusError,
    IntegrityError,
    NetError,
    PolicyError,
)
from fastdl.model.digest import Digest, DigestSource
from fastdl.model.url import METALINK_SUFFIXES, Url
from fastdl.publishers.beside import lists_beside, path_seen_from, signatures_beside
from fastdl.publishers.checksum_list import MAX_LIST, digest_of, read_list
from fastdl.publishers.clearsigned import is_clearsigned, signed_text
from fastdl.publishers.openpgp import (
    MAX_SIGNATURE,
    Signer,
    read_keyring,
    verify_clearsigned,
    verify_detached,
)

if TYPE_CHECKING:
    from fastdl.engine.source.draft import Draft


def learn_from_lists(draft: Draft) -> None:
    """Take in what the list that the options name, or one beside a source, says of the file.

    ChecksumListError, IntegrityError (its signature), PolicyError (it has none); else as any
    source. A list that is only looked for may be absent.
    """
    options = draft.ctx.options
    if options.checksum_list is not None:
        reference, _, name = options.checksum_list.partition("#")
        if "://" not in reference:
            reference, name = options.checksum_list, ""
        _take_list(draft, Url.parse(reference), name or None)
    elif options.discover:
        _discover(draft)


def require_signature(draft: Draft) -> None:
    """PolicyError where the options name a keyring, and nothing that is signed said a digest."""
    if draft.ctx.options.keyring is not None and draft.signed_by is None:
        raise PolicyError(
            "a keyring is given, but nothing that is signed says what the bytes must be: name a "
            "checksum list (--checksum URL, --discover) or a metalink",
            phase="resolve",
        )


def vouch_for_metalink(draft: Draft, url: Url, data: bytes) -> None:
    """Check the signature beside the metalink at *url*, where a keyring asks for one and no
    signed list has said already what the bytes must be."""
    if draft.ctx.options.keyring is not None and draft.signed_by is None:
        draft.signed_by = str(_signer_beside(draft, url, data))


def _take_list(draft: Draft, url: Url, name: str | None) -> None:
    data = fetch_document(draft, url, MAX_LIST, what="a checksum list").data
    text, signer = _signed(draft, url, data)
    digest = _digest_for(draft, url, text, name)
    if signer is None and url.scheme == "http":
        draft.warnings.append(
            f"{url.display()} came over http and is not signed: whoever can change the image on "
            "its way can change it too"
        )
    _take(draft, digest, signer, DigestSource.LIST, url)


def _take(
    draft: Draft, digest: Digest, signer: Signer | None, source: DigestSource, url: Url
) -> None:
    if digest.strength == "weak":
        if signer is not None:
            raise PolicyError(
                f"{url.display()} is signed, but gives a {digest.algorithm} only, whose "
                "collisions can be made",
                phase="resolve",
            )
        draft.warnings.append(
            f"{url.display()} gives a {digest.algorithm} only, which finds accidents and no "
            "attackers (integrity weak)"
        )
    draft.take_digests([(digest, source)])
    draft.signed_by = None if signer is None else str(signer)


def _digest_for(draft: Draft, listed_in: Url, text: bytes, name: str | None) -> Digest:
    """What the list says of the file *name*; of the sources' own names where None is given."""
    entries = read_list(text, called=listed_in.last_segment() or "")
    if name is not None:
        return digest_of(entries, name)
    names: dict[str, str | None] = {}
    for url in draft.typed:
        called = url.last_segment()
        for suffix in METALINK_SUFFIXES:
            if called and called.lower().endswith(suffix):
                called = called[: -len(suffix)]
        if called:
            names.setdefault(called, path_seen_from(listed_in, url))
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
            failed = failed or exc
    if not found:
        assert failed is not None
        raise failed.add_context(origin=listed_in.display())
    if any(digest != found[0] for digest in found):
        raise ChecksumListError(
            "the checksum list gives the sources different digests: they are not mirrors of one "
            "file",
            phase="resolve",
        )
    return found[0]


def _discover(draft: Draft) -> None:
    """Take in the first list beside a typed source that names it."""
    for source in draft.typed:
        if source.scheme == "nfs" or source.is_metalink_name():
            continue
        for url in lists_beside(source):
            try:
                data = fetch_document(
                    draft, url, MAX_LIST, what="a checksum list", optional=True
                ).data
            except HttpStatusError:
                continue
            except NetError as exc:
                if source.scheme == "file":
                    continue
                draft.warnings.append(f"no checksum list beside {source.display()}: {exc.message}")
                break
            if (digest := _listed(draft, url, data)) is None:
                continue
            _, signer = _signed(draft, url, data)
            origin = DigestSource.LIST if signer is not None else DigestSource.LIST_BESIDE
            _take(draft, digest, signer, origin, url)
            draft.warnings.append(f"the checksum is from {url.display()}")
            return
    draft.warnings.append("no checksum list that names the file was found beside it")


def _listed(draft: Draft, url: Url, data: bytes) -> Digest | None:
    """What a list that was only found says of the file; None where it says nothing of it.

    Contradictions are errors: *an* answer to what was asked, and none that can be used.
    """
    try:
        text = signed_text(data) if is_clearsigned(data) else data
        entries = read_list(text, called=url.last_segment() or "")
    except ChecksumListError:
        return None  # a page that says politely that there is nothing
    names = {one.last_segment() for one in draft.typed}
    if not any(e.name is None or e.name.rpartition("/")[2] in names for e in entries):
        return None
    return _digest_for(draft, url, text, None)


# ---- signatures ----------------------------------------------------------------------


def _signed(draft: Draft, url: Url, data: bytes) -> tuple[bytes, Signer | None]:
    """The text of the list *data* that counts, and who signed it where a keyring is given."""
    path = draft.ctx.options.keyring
    if path is None:
        return (signed_text(data) if is_clearsigned(data) else data), None
    if is_clearsigned(data):
        signed_text(data)  # one signed part, and nothing beside it
        signer, text = verify_clearsigned(data, read_keyring(path), url.display())
        return text, signer
    return data, _signer_beside(draft, url, data)


def _signer_beside(draft: Draft, url: Url, data: bytes) -> Signer:
    """Who signed *data* by a detached signature beside *url*.

    PolicyError where there is none; IntegrityError where none of those there is right.
    """
    path = draft.ctx.options.keyring
    assert path is not None
    keyring = read_keyring(path)
    wrong: IntegrityError | None = None
    for candidate in signatures_beside(url):
        try:
            found = fetch_document(
                draft, candidate, MAX_SIGNATURE, what="a signature", optional=True
            )
        except HttpStatusError:
            continue
        except NetError:
            if url.scheme == "file":
                continue
            raise
        try:
            return verify_detached(data, found.data, keyring, url.display())
        except IntegrityError as exc:
            wrong = wrong or exc
    if wrong is not None:
        raise wrong
    raise PolicyError(
        f"{url.display()} has no signature beside it, and a keyring is given", phase="resolve"
    )
