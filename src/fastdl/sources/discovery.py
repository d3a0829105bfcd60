# SPDX-License-Identifier: Apache-2.0
"""What a response says besides its bytes: mirrors, metalinks and digests.

Link (RFC 8288, with the relations of RFC 6249), Digest (RFC 3230), Repr-Digest and
Content-Digest (RFC 9530). All of it is optional help, so nothing in it can fail a
download: what cannot be read is ignored with a warning, and every dimension is bounded.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastdl.errors import FastdlError
from fastdl.model.digest import HEX_LENGTHS, Digest, DigestSource, algorithm_named
from fastdl.model.referral import refused_referral
from fastdl.model.url import Url
from fastdl.sources.metalink import (
    LOWEST_PRIORITY,
    MEDIA_TYPES,
    Mirror,
    is_metalink_media_type,
)

__all__ = ["Discovery", "Link", "discover", "is_metalink_media_type", "parse_links"]

MAX_VALUE = 64 * 1024
MAX_LINKS = 256
MAX_PARAMETERS = 32
MAX_DIGESTS = 32
MAX_WARNINGS = 16
"""Bounds of one answer: characters of a field's value that are read; links, parameters of a
link, digests and remarks that are kept."""

Headers = Iterable[tuple[str, str]]

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINK_TARGET = re.compile(r"[ \t,]*<([^<>]*)>")
_LINK_PARAMETER = re.compile(
    rf'[ \t]*;[ \t]*(?:({_NAME})\*?[ \t]*(?:=[ \t]*(?:({_NAME})|"((?:[^"\\]|\\.)*)"))?)?'
)
_LINK_END = re.compile(r"[ \t]*(?:,|$)")
_OLD_DIGEST = re.compile(rf"[ \t]*({_NAME})[ \t]*=[ \t]*([A-Za-z0-9+/]*={{0,2}})[ \t]*")
_NEW_DIGEST = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):[ \t]*(?:;.*)?")
_SMALL_NUMBER = re.compile(r"[0-9]{1,6}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link as it was sent: its target as text, its relations and first-given parameters.

    Names of relations and parameters are in lower case; a parameter without value is ``""``.
    """

    target: str
    relations: frozenset[str]
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What one response offers.

    *mirrors*          best first, one connection each (RFC 6249); empty without a digest
    *metalinks*        absolute URLs of metalinks that describe the file
    *digests*          of the whole representation, with their source
    *content_digests*  of this answer's content only: for a 206, of the part
    """

    mirrors: tuple[Mirror, ...] = ()
    metalinks: tuple[str, ...] = ()
    digests: tuple[tuple[Digest, DigestSource], ...] = ()
    content_digests: tuple[Digest, ...] = ()
    warnings: tuple[str, ...] = ()


def discover(headers: Headers, *, base_url: Url | str, provable: bool = False) -> Discovery:
    """Return what the response *headers* (lower-case names) of *base_url* offer.

    *provable*: a digest is known already, so mirrors are of use without another one.

    Raises nothing for whatever *headers* hold; UsageError or PolicyError for a bad *base_url*.
    """
    base = Url.parse(base_url) if isinstance(base_url, str) else base_url
    warnings: list[str] = []
    fields = list(headers)
    old = _digests(fields, "digest", warnings)
    new = _digests(fields, "repr-digest", warnings)
    content = _digests(fields, "content-digest", warnings)
    digests = tuple((d, DigestSource.REPR_DIGEST) for d in new)
    digests += tuple((d, DigestSource.DIGEST_HEADER) for d in old)
    mirrors, metalinks = _links_by_use(parse_links(fields, warnings), base, warnings)
    if mirrors and not (digests or provable):
        # RFC 6249, 5: without a digest nothing shows whether a mirror has the same file.
        warnings.append(f"{len(mirrors)} mirrors in Link fields are ignored without a digest")
        mirrors = ()
    return Discovery(
        mirrors=mirrors,
        metalinks=metalinks,
        digests=digests,
        content_digests=content,
        warnings=tuple(warnings[:MAX_WARNINGS]),
    )


def _values(headers: Headers, name: str, warnings: list[str]) -> Iterator[str]:
    """The values of the field *name* in order; one that is too long is left out."""
    for field, value in headers:
        if field == name and len(value) <= MAX_VALUE:
            yield value
        elif field == name:
            warnings.append(f"a {name} field of {len(value)} characters is ignored")


# ---- links ---------------------------------------------------------------------------


def parse_links(headers: Headers, warnings: list[str]) -> list[Link]:
    """Return the links in all ``link`` fields, at most MAX_LINKS (RFC 8288, appendix B).

    What follows a malformed link in the same field is ignored with a line in *warnings*.
    """
    links: list[Link] = []
    for value in _values(headers, "link", warnings):
        at = 0
        while value[at:].strip(" \t,"):
            if len(links) == MAX_LINKS:
                warnings.append(f"links after the first {MAX_LINKS} are ignored")
                return links
            found = _read_link(value, at)
            if found is None:
                warnings.append("a malformed Link field is ignored after its first error")
                break
            link, at = found
            links.append(link)
    return links


def _read_link(value: str, at: int) -> tuple[Link, int] | None:
    """The link that starts at *at* and where the next one starts; None if it is malformed."""
    target = _LINK_TARGET.match(value, at)
    if target is None:
        return None
    at = target.end()
    parameters: dict[str, str] = {}
    while match := _LINK_PARAMETER.match(value, at):
        at = match.end()
        name, token, quoted = match.groups()
        if name and len(parameters) < MAX_PARAMETERS:
            text = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            parameters.setdefault(name.lower(), text or "")
    end = _LINK_END.match(value, at)
    if end is None:
        return None
    relations = frozenset(parameters.get("rel", "").lower().split())
    return Link(
        target=target[1].strip(" \t"), relations=relations, parameters=parameters
    ), end.end()


def _links_by_use(
    links: list[Link], base: Url, warnings: list[str]
) -> tuple[tuple[Mirror, ...], tuple[str, ...]]:
    """The mirrors (best first) and the metalinks among *links*."""
    mirrors: dict[str, Mirror] = {}
    metalinks: dict[str, None] = {}
    for link in links:
        duplicate = "duplicate" in link.relations
        described = "describedby" in link.relations and (
            link.parameters.get("type", "").lower() in MEDIA_TYPES
        )
        if not duplicate and not described:
            continue
        url = _resolved(link, base, warnings)
        if url is None:
            continue
        if described:
            metalinks.setdefault(url.request_text())
        elif (url.origin, url.target) != (base.origin, base.target):
            mirrors.setdefault(url.request_text(), _mirror(url, link.parameters))
    ordered = sorted(mirrors.values(), key=lambda m: (not m.preferred, m.priority))
    return tuple(ordered), tuple(metalinks)


def _resolved(link: Link, base: Url, warnings: list[str]) -> Url | None:
    """Where *link* leads, if it says something about *base* itself and may be followed."""
    try:
        anchor = link.parameters.get("anchor")
        if anchor is not None:
            context = base.join(anchor)
            if (context.origin, context.target) != (base.origin, base.target):
                return None
        url = base.join(link.target)
        if not url.is_http:
            warnings.append(f"a link to {url.scheme} is ignored")
        elif reason := refused_referral(url, base):
            warnings.append(f"a link is ignored: {reason}")
        else:
            return url
    except FastdlError as exc:
        warnings.append(f"a link is ignored: {exc.message}")
    return None


def _mirror(url: Url, parameters: dict[str, str]) -> Mirror:
    """RFC 6249, 3: ``pri`` from 1 (first) to 999999, ``pref`` without a value, ``geo``."""
    text, location = parameters.get("pri", ""), parameters.get("geo", "")
    priority = int(text) if _SMALL_NUMBER.fullmatch(text) else 0
    return Mirror(
        url=url.request_text(),
        priority=priority or LOWEST_PRIORITY,
        location=location.lower() if _COUNTRY.fullmatch(location) else None,
        maxconnections=1,
        preferred="pref" in parameters,
    )


# ---- digests -------------------------------------------------------------------------


def _digests(headers: Headers, name: str, warnings: list[str]) -> tuple[Digest, ...]:
    """The digests of known algorithms in the fields *name*, one for each algorithm.

    Two different values for one algorithm say that neither can be trusted: both are ignored.
    """
    pattern = _OLD_DIGEST if name == "digest" else _NEW_DIGEST
    known: dict[str, Digest] = {}
    contradicted: set[str] = set()
    for value in _values(headers, name, warnings):
        # Base64 holds no commas, and parameters with one are not defined for these fields.
        members = value.split(",", MAX_DIGESTS)
        if len(members) > MAX_DIGESTS:
            warnings.append(f"members of a {name} field after the first {MAX_DIGESTS} are ignored")
        for member in members[:MAX_DIGESTS]:
            match = pattern.fullmatch(member)
            if match is None:
                if member.strip(" \t"):
                    warnings.append(f"a malformed member of a {name} field is ignored")
                continue
            algorithm = "sha-1" if match[1].lower() == "sha" else algorithm_named(match[1])
            if algorithm is None:
                continue  # unixsum, crc32c and the like are legal and of no use here
            digest = _from_base64(algorithm, match[2])
            if digest is None:
                warnings.append(f"a {algorithm} value of a {name} field has the wrong length")
            elif known.setdefault(algorithm, digest) != digest:
                contradicted.add(algorithm)
    warnings.extend(
        f"the {name} fields give different {algorithm} values: they are ignored"
        for algorithm in sorted(contradicted)
    )
    return tuple(digest for kind, digest in known.items() if kind not in contradicted)


def _from_base64(algorithm: str, text: str) -> Digest | None:
    """The digest that *text* encodes, or None.

    Some servers encode the hex digits instead of the bytes, as RFC 6249's own example
    does; the length tells the two apart.
    """
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
        hex_digits = HEX_LENGTHS[algorithm]
        if len(value) == hex_digits:
            return Digest(algorithm, value.decode("ascii"))
        return Digest.from_bytes(algorithm, value)
    except (ValueError, FastdlError):
        return None
