# SPDX-License-Identifier: Apache-2.0
"""Who vouches for a source's digests: checksum lists, and the signatures of those and of metalinks.

Without a keyring a list is believed as the command's own checksum is, where the operator named
it; one that was only found next to the image is no more than the origin's word. With a keyring
nothing counts that nobody signed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fastdl.engine.source.documents import fetch_document
from fastdl.errors import ChecksumListError, HttpStatusError, NetError, PolicyError
from fastdl.model.digest import Digest, DigestSource
from fastdl.model.url import Url
from fastdl.publishers.beside import lists_beside, signatures_beside
from fastdl.publishers.checksum_list import MAX_LIST, read_list
from fastdl.publishers.clearsigned import is_clearsigned, signed_text
from fastdl.publishers.signatures import (
    MAX_SIGNATURE,
    Content,
    Keyring,
    Signer,
    read_keyring,
)
from fastdl.publishers.vouching import (
    check_strength,
    digest_for,
    file_name,
    parse_reference,
    signed_part,
)

if TYPE_CHECKING:
    from fastdl.engine.source.draft import Draft


def learn_from_lists(draft: Draft) -> None:
    """Record what the list that the options name, or one next to a source, says of the file.

    ChecksumListError, IntegrityError (its signature), PolicyError (it has none); else as any
    source. A list that is only looked for may be absent.
    """
    options = draft.ctx.options
    if options.checksum_list is None:
        _discover(draft)
        return
    url, name = parse_reference(options.checksum_list)
    data = _document(draft, url, MAX_LIST)
    text, signer = _signed(draft, url, data)
    digest = digest_for(url, text, draft.typed, name)
    if signer is None and url.scheme == "http":
        draft.warnings.append(
            f"{url.display()} came over http and is not signed: anyone who can change the image on "
            "its way can change it too"
        )
    _take(draft, digest, signer, DigestSource.LIST, url)


def require_signature(draft: Draft) -> None:
    """Look for signatures of the file itself where nothing that is signed said a digest yet.

    They are checked when the bytes are here (``engine.signed``). PolicyError where the options name
    a keyring, and there is nothing that its keys may have signed.
    """
    if draft.ctx.options.keyring is None or draft.signed_by is not None or draft.signatures:
        return
    keyring = read_keyring(draft.ctx.options.keyring)
    for source in draft.typed:
        if source.scheme != "nfs" and not source.is_metalink_name():
            draft.signatures += tuple(_signatures(draft, source, keyring))
    if not draft.signatures:
        raise PolicyError(
            "a keyring is given, but nothing that is signed says what the bytes must be, nor has "
            "the file a signature next to it: name a checksum list (--checksum URL, --discover) or "
            "a metalink",
            phase="resolve",
        )


def vouch_for_metalink(draft: Draft, url: Url, data: bytes, within: Sequence[bytes]) -> None:
    """Check the signature next to the metalink at *url*, where a keyring asks for one and no
    signed list has said already what the bytes must be.

    *within*: the file's own signatures, which the metalink holds. They do where the document has
    none itself.
    """
    path = draft.ctx.options.keyring
    if path is None or draft.signed_by is not None:
        return
    keyring = read_keyring(path)
    found = list(_signatures(draft, url, keyring))
    if not found and within:
        draft.signatures = tuple(within)
        return
    draft.signed_by = str(keyring.signer(Content(url.display(), data), found))


def _take(
    draft: Draft, digest: Digest, signer: Signer | None, source: DigestSource, url: Url
) -> None:
    if warning := check_strength(url, digest, signer):
        draft.warnings.append(warning)
    draft.take_digests([(digest, source)])
    draft.signed_by = None if signer is None else str(signer)


def _discover(draft: Draft) -> None:
    """Record the first list next to a typed source that names it."""
    for source in draft.typed:
        if source.scheme == "nfs" or source.is_metalink_name():
            continue
        for url in lists_beside(source):
            try:
                data = _document(draft, url, MAX_LIST, optional=True)
            except HttpStatusError:
                continue
            except NetError as exc:
                if source.scheme == "file":
                    continue
                draft.warnings.append(f"no checksum list next to {source.display()}: {exc.message}")
                break
            if (digest := _listed(draft, url, data)) is None:
                continue
            _, signer = _signed(draft, url, data)
            origin = DigestSource.LIST if signer is not None else DigestSource.LIST_BESIDE
            _take(draft, digest, signer, origin, url)
            draft.warnings.append(f"the checksum is from {url.display()}")
            return
    draft.warnings.append("no checksum list that names the file was found next to it")


def _listed(draft: Draft, url: Url, data: bytes) -> Digest | None:
    """What a list that was only found says of the file; None where it says nothing of it.

    Contradictions are errors: *an* answer to what was asked, and none that can be used.
    """
    try:
        text = signed_text(data) if is_clearsigned(data) else data
        entries = read_list(text, called=url.last_segment() or "")
    except ChecksumListError:
        return None  # a page that says politely that there is nothing
    names = {file_name(one) for one in draft.typed}
    if not any(e.name is None or e.name.rpartition("/")[2] in names for e in entries):
        return None
    return digest_for(url, text, draft.typed, None)


def _signed(draft: Draft, url: Url, data: bytes) -> tuple[bytes, Signer | None]:
    path = draft.ctx.options.keyring
    if path is None:
        return signed_part(url, data, None, ())
    keyring = read_keyring(path)
    return signed_part(url, data, keyring, _signatures(draft, url, keyring))


def _signatures(draft: Draft, url: Url, keyring: Keyring) -> Iterator[bytes]:
    """The detached signatures next to *url*, each fetched when it is wanted."""
    for candidate in signatures_beside(url, keyring.suffixes):
        try:
            yield _document(draft, candidate, MAX_SIGNATURE, optional=True)
        except HttpStatusError:
            continue
        except NetError:
            if url.scheme != "file":
                raise


def _document(draft: Draft, url: Url, limit: int, *, optional: bool = False) -> bytes:
    what = "a signature" if limit == MAX_SIGNATURE else "a checksum list"
    headers = draft.headers_for(url)
    return fetch_document(draft.ctx, url, limit, what=what, headers=headers, optional=optional).data
