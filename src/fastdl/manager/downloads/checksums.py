# SPDX-License-Identifier: Apache-2.0
"""Which checksum does a publisher's list give a template? Asked once, at registration, and fixed.

A host fetches the list, as it fetches the template: under the address policy, with its trust,
in a confined process. What it brought is read here.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fastdl.errors import (
    AgentRefusedError,
    ApiConflictError,
    ApiParamError,
    IntegrityError,
    PolicyError,
    UsageError,
)
from fastdl.manager.downloads.transfers import check_origin, for_sources
from fastdl.manager.settings import Settings
from fastdl.model.digest import Digest
from fastdl.model.url import Url
from fastdl.publishers.beside import signatures_beside
from fastdl.publishers.signatures import Content, Keyring, read_keyring
from fastdl.publishers.vouching import (
    Reference,
    check_strength,
    digest_for,
    parse_reference,
    signed_part,
)
from fastdl.sources.metalink import parse_metalink
from fastdl.sources.origin_rules import rule_for
from fastdl.wire import messages as m
from fastdl.wire.limits import Headers
from fastdl.wire.packed import unpack

LIST_MAX: Final = 1 << 20
"""Bytes of a list, and of a signature."""


PRODUCTS_MAX: Final = 8 << 20
"""Bytes of a file of products."""


class Fixed(NamedTuple):
    """What a list gave: *checksum* as CloudStack writes it; *signed_by* where a keyring asked;
    *version* of a product."""

    checksum: str
    source: str
    signed_by: str | None
    warnings: tuple[str, ...]
    version: str | None = None


def is_reference(text: str | None) -> bool:
    """Whether a checksum is given as the URL of a list."""
    return text is not None and "://" in text


def check_reference(settings: Settings, text: str) -> Reference:
    """The list that *text* names; ApiParamError where it cannot be an origin now."""
    place, hash_, name = text.strip().partition("#")
    url = check_origin(settings, place)
    if not url.is_http:
        raise ApiParamError("A checksum list is named by an http or https URL")
    return parse_reference(f"{place}{hash_}{name}")


def documents_args(
    settings: Settings,
    url: Url,
    source: Url,
    *,
    headers: Headers,
    keyring: Keyring | None,
    most: int = LIST_MAX,
) -> m.DocumentsArgs:
    """What a host has to fetch: the document at *url*, and the signatures that *keyring* may have
    made. *headers*, sealed, are for the origin of the template *source* alone."""
    wanted = [url, *(signatures_beside(url, keyring.suffixes) if keyring is not None else ())]
    own = headers if url.origin == source.origin else ()
    sources = [one.request_text() for one in wanted]
    return m.DocumentsArgs(transfer=for_sources(settings, sources, headers=own), most=most)


def keyring_for(settings: Settings, *urls: Url) -> Keyring | None:
    """The keys of which one must have signed what comes from *urls*, None where no rule says so.

    ApiConflictError where they cannot be read: nothing is registered unsigned for that.
    """
    rules = settings.origins.rules
    for url in urls:
        rule = rule_for(rules, url)
        if rule is not None and rule.keyring is not None:
            try:
                return read_keyring(rule.keyring)
            except UsageError as exc:
                raise ApiConflictError(f"A rule for this origin names a keyring: {exc}") from None
    return None


def check_signed(settings: Settings, url: Url, checksum: str | None) -> None:
    """ApiParamError where a rule demands a signature of what *url* is, and nothing can have one."""
    may_be = is_reference(checksum) or url.is_metalink_name()
    if not may_be and keyring_for(settings, url) is not None:
        raise ApiParamError(
            "What comes from this origin has to be signed: checksum= the URL of a signed list, or "
            "url= that of a signed metalink"
        )


def signed_metalink(url: Url, done: m.DocumentsDone, keyring: Keyring) -> Fixed:
    """The checksum in the metalink at *url* that a host brought, with the signatures next to it.

    PolicyError: no signature, or no strong digest. IntegrityError: no valid signature. Else the
    errors of ``parse_metalink``.
    """
    documents = [unpack(text, most=PRODUCTS_MAX) for text in done.documents]
    if not documents or documents[0] is None:
        raise AgentRefusedError("the host brought no metalink")
    content = Content(url.display(), documents[0])
    signer = keyring.signer(content, [one for one in documents[1:] if one is not None])
    digests = parse_metalink(documents[0], base_url=url).digests
    if not digests or digests[0].strength != "strong":
        raise PolicyError(f"{url.display()} is signed, but has no strong hash of the file")
    return Fixed(digests[0].cloudstack(), url.display(), str(signer), ())


def fixed(
    reference: Reference, source: Url, done: m.DocumentsDone, keyring: Keyring | None
) -> Fixed:
    """The checksum of *source* in what a host brought; the errors of ``publishers``."""
    documents = [unpack(text, most=LIST_MAX) for text in done.documents]
    if not documents or documents[0] is None:
        raise AgentRefusedError("the host brought no list")
    signatures = [one for one in documents[1:] if one is not None]
    text, signer = signed_part(reference.url, documents[0], keyring, signatures)
    digest = digest_for(reference.url, text, [source], reference.name)
    warnings = [check_strength(reference.url, digest, signer)]
    if signer is None and reference.url.scheme == "http":
        warnings.append("the checksum list came over http and is not signed")
    return Fixed(
        checksum=digest.cloudstack(),
        source=reference.url.display(),
        signed_by=None if signer is None else str(signer),
        warnings=tuple(one for one in warnings if one),
    )


def document(url: Url, done: m.DocumentsDone, keyring: Keyring | None) -> tuple[str | None, bytes]:
    """Who signed the document at *url* that a host brought, where *keyring* asks, and its text."""
    data = unpack(done.documents[0], most=PRODUCTS_MAX) if done.documents else None
    if data is None:
        raise AgentRefusedError("the host brought no document")
    text, signer = signed_part(url, data, keyring, ())
    return None if signer is None else str(signer), text


def check_agreement(found: Fixed, probe: m.ProbeDone) -> None:
    """IntegrityError where a metalink or the origin says something else than the list."""
    algorithm, digits = found.checksum[1:].split("}")
    said = probe.digests.get(algorithm.lower())
    if said is not None and Digest(algorithm, said).hex != digits:
        raise IntegrityError(f"the checksum list and the source give different {algorithm} values")
