# SPDX-License-Identifier: Apache-2.0
"""What a metalink means: one file's size, digests, pieces and mirrors (RFC 5854; version 3).

The digests are what makes mirrors usable at all, so a document that contradicts itself is refused
as a whole, and nothing is guessed. The file's name is checked and reported, but never becomes a
path: the target comes from the command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fastdl.errors import FastdlError, MetalinkError, PolicyError, Reason, UsageError
from fastdl.model.digest import ALGORITHMS, HEX_LENGTHS, Digest, algorithm_named
from fastdl.model.referral import refused_referral
from fastdl.model.units import MAX_SIZE
from fastdl.model.url import METALINK_SUFFIXES, Url
from fastdl.sources.metalink_xml import (
    Attributes,
    DocumentRecord,
    FileRecord,
    PiecesRecord,
    read_document,
)

MEDIA_TYPES = frozenset({"application/metalink4+xml", "application/metalink+xml"})
LOWEST_PRIORITY = 999_999
MIN_PIECE = 16 * 1024
MAX_PIECE = 1024 * 1024 * 1024
MAX_MIRRORS = 256
MAX_WARNINGS = 32
MAX_NAME = 255
MAX_SIGNATURES = 8

_LOCAL = Url(scheme="file", path="/")
_NUMBER = re.compile(r"[0-9]{1,19}")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_LOCATION = re.compile(r"[A-Za-z]{2}")
_UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|^[A-Za-z]:|^~|^/|/$|//")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """One location of the file.

    *priority*        1 (first) to LOWEST_PRIORITY
    *location*        two-letter country code in lower case
    *maxconnections*  connections that the mirror allows; None if unstated
    *preferred*       the origin vouches for the same validators there (RFC 6249, ``pref``)
    """

    url: str = field(repr=False)
    priority: int = LOWEST_PRIORITY
    location: str | None = None
    maxconnections: int | None = None
    preferred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Digests of consecutive pieces of *length* bytes (the last may be shorter).

    *hashes* is the binary digests one after another, as the core takes them.
    """

    algorithm: str
    length: int
    hashes: bytes = field(repr=False)

    @property
    def digest_size(self) -> int:
        """Bytes of one piece's digest."""
        return HEX_LENGTHS[self.algorithm] // 2

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self.hashes) // self.digest_size

    def digest_of(self, index: int) -> Digest:
        """Return the digest of piece *index*, counted from 0."""
        at = index * self.digest_size
        return Digest.from_bytes(self.algorithm, self.hashes[at : at + self.digest_size])


@dataclass(frozen=True, slots=True, kw_only=True)
class Metalink:
    """The selected file. *digests* strongest first, *mirrors* best first; *size* in bytes.

    *signatures*: of the file itself, as armor or text.
    """

    version: int
    name: str
    size: int | None
    digests: tuple[Digest, ...]
    pieces: Pieces | None
    mirrors: tuple[Mirror, ...]
    warnings: tuple[str, ...]
    signatures: tuple[bytes, ...] = ()


class _Warnings(list[str]):
    """Remarks for the operator, bounded: a hostile document must not fill a log."""

    def note(self, text: str) -> None:
        if len(self) < MAX_WARNINGS:
            self.append(text)
        elif len(self) == MAX_WARNINGS:
            self.append("the metalink has more oddities that are not listed")


def is_metalink_media_type(content_type: str | None) -> bool:
    """Whether a Content-Type field's value says that the body is a metalink."""
    return (content_type or "").partition(";")[0].strip(" \t").lower() in MEDIA_TYPES


def parse_metalink(
    data: bytes, *, base_url: Url | str | None = None, file_name: str | None = None
) -> Metalink:
    """Return what the metalink *data* says about one file.

    *base_url*   where the document came from: what it may lead to depends on that (see
                 ``model.referral``), and none may lead back to itself. None: a local file.
    *file_name*  which file to use if the document has several.

    MetalinkError: malformed, contradicts itself, or has an unsafe name. LimitError: too
    large. PolicyError: no mirror is left that may be used. UsageError: bad *base_url*.
    """
    base = Url.parse(base_url) if isinstance(base_url, str) else base_url
    document = read_document(data)
    warnings = _Warnings()
    if not document.namespaced:
        warnings.note(
            f"the metalink declares no namespace; it is read as version {document.version}"
        )
    record, name = _selected(document, file_name, warnings)
    size = _size(record)
    digests = _digests(record, warnings)
    pieces = _pieces(record, size, warnings)
    mirrors = _mirrors(record, name, base, warnings)
    return Metalink(
        version=document.version,
        name=name,
        size=size,
        digests=digests,
        pieces=pieces,
        mirrors=mirrors,
        warnings=tuple(warnings),
        signatures=tuple(text.encode() + b"\n" for _, text in record.signatures[:MAX_SIGNATURES]),
    )


def _fail(message: str) -> MetalinkError:
    return MetalinkError(message, phase="resolve")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _number(text: str | None) -> int | None:
    """The plain decimal number *text* spells (at most 19 digits), or None."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


# ---- which file ----------------------------------------------------------------------


def file_names(data: bytes) -> tuple[str, ...]:
    """The names of the files that the metalink *data* describes. Errors as ``parse_metalink``."""
    return tuple(_files(read_document(data), _Warnings()))


def _selected(
    document: DocumentRecord, wanted: str | None, warnings: _Warnings
) -> tuple[FileRecord, str]:
    """The one file that is meant, with its name."""
    files = _files(document, warnings)
    listed = ", ".join(_shown(name) for name in list(files)[:5])
    if wanted is not None:
        wanted = wanted.lstrip("/") if document.version == 3 else wanted
        if wanted not in files:
            raise _fail(f"the metalink describes no file named {_shown(wanted)}, only {listed}")
        return files[wanted], wanted
    if len(files) > 1:
        raise MetalinkError(
            f"the metalink describes {len(files)} files, name one of them: {listed}",
            phase="resolve",
            reason=Reason.SEVERAL_FILES,
        )
    name, record = next(iter(files.items()))
    return record, name


def _files(document: DocumentRecord, warnings: _Warnings) -> dict[str, FileRecord]:
    """Every file by its name, which must be safe and unique.

    Version 3 does not say what a name may be, and some servers write their own path there:
    that loses its slash. RFC 5854 (4.1.2.1) forbids absolute names.
    """
    files: dict[str, FileRecord] = {}
    for record in document.files:
        name = record.attributes.get("name", "")
        if document.version == 3 and name.startswith("/"):
            warnings.note(
                f"the metalink's file name {_shown(name)} is absolute: read without its slash"
            )
            name = name.lstrip("/")
        check_file_name(name)
        if name in files:
            raise _fail(f"the metalink describes two files named {_shown(name)}")
        files[name] = record
    if not files:
        raise _fail("the metalink describes no file")
    return files


def check_file_name(name: str) -> None:
    """Refuse what RFC 5854 (4.1.2.1) forbids and what any file system reads as special."""
    from urllib.parse import unquote  # slow to import; only metalinks need it

    if not name:
        raise _fail("the metalink describes a file without a name")
    if name.startswith("/"):
        raise _fail(f"the metalink's file name {_shown(name)} is absolute")
    decoded = name
    for _ in range(3):  # %252e%252e is ../ if decoded twice
        unsafe = _UNSAFE_NAME.search(decoded) or {".", ".."}.intersection(decoded.split("/"))
        if unsafe or len(decoded.encode()) > MAX_NAME:
            raise _fail(f"the metalink's file name {_shown(name)} is not safe")
        decoded = unquote(decoded, errors="replace")


# ---- what it must be -----------------------------------------------------------------


def _size(record: FileRecord) -> int | None:
    if not record.sizes:
        return None
    size = _number(record.sizes[0])
    if len(record.sizes) > 1 or size is None or size > MAX_SIZE:
        raise _fail("the metalink's size is not one number of bytes below 2^63")
    return size


def _digests(record: FileRecord, warnings: _Warnings) -> tuple[Digest, ...]:
    """Every whole-file digest of a known algorithm, the strongest first."""
    known: dict[str, Digest] = {}
    for attributes, text in record.hashes:
        kind = attributes.get("type", "")
        algorithm = algorithm_named(kind)
        if algorithm is None:
            warnings.note(f"a hash of the unknown type {_shown(kind)} is ignored")
            continue
        try:
            digest = Digest(algorithm, text)
        except UsageError as exc:
            raise _fail(f"the metalink's hash is malformed: {exc.message}") from None
        if known.setdefault(algorithm, digest) != digest:
            raise _fail(f"the metalink gives two different {algorithm} hashes of the file")
    if record.hashes and not known:
        warnings.note("the metalink has hashes of unknown types only: they verify nothing")
    return tuple(known[name] for name in reversed(ALGORITHMS) if name in known)


def _pieces(record: FileRecord, size: int | None, warnings: _Warnings) -> Pieces | None:
    """The piece list of the strongest known algorithm; every known list must be right."""
    lists: dict[str, Pieces] = {}
    for entry in record.pieces:
        kind = entry.attributes.get("type", "")
        algorithm = algorithm_named(kind)
        if algorithm is None:
            warnings.note(f"a list of pieces of the unknown type {_shown(kind)} is ignored")
            continue
        if algorithm in lists:
            raise _fail(f"the metalink has two lists of {algorithm} pieces")
        lists[algorithm] = _piece_list(entry, algorithm, size)
    return next((lists[name] for name in reversed(ALGORITHMS) if name in lists), None)


def _piece_list(entry: PiecesRecord, algorithm: str, size: int | None) -> Pieces:
    if size is None:
        raise _fail("the metalink has pieces, but no size that tells how many there must be")
    length = _number(entry.attributes.get("length"))
    if length is None or not MIN_PIECE <= length <= MAX_PIECE:
        raise _fail("the metalink's piece length is not a number from 16 KiB to 1 GiB")
    expected = -(-size // length)
    if len(entry.hashes) != expected:
        raise _fail(
            f"the metalink has {len(entry.hashes)} pieces of {length} bytes, "
            f"its size needs {expected}"
        )
    # RFC 5854 writes hashes in lower case and pieces without a type of their own; generators
    # write upper case too.
    pattern = re.compile(f"[0-9A-Fa-f]{{{HEX_LENGTHS[algorithm]}}}")
    for index, (attributes, text) in enumerate(entry.hashes):
        if pattern.fullmatch(text) is None:
            raise _fail(f"the metalink's piece {index} has no {algorithm} hash in hex")
        if algorithm_named(attributes.get("type", algorithm)) != algorithm:
            raise _fail(f"the metalink mixes hash types in a list of {algorithm} pieces")
        if attributes.get("piece", str(index)) != str(index):
            raise _fail(f"the metalink's piece {index} is out of order")
    hashes = bytes.fromhex("".join(text for _, text in entry.hashes))
    return Pieces(algorithm=algorithm, length=length, hashes=hashes)


# ---- where it is ---------------------------------------------------------------------


def _mirrors(
    record: FileRecord, name: str, base: Url | None, warnings: _Warnings
) -> tuple[Mirror, ...]:
    """Every mirror that may be used, the best first; the document's order breaks ties."""
    for attributes, _ in record.metaurls:
        if is_metalink_media_type(attributes.get("mediatype")):
            raise _fail("the metalink refers to another metalink, which is never followed")
    best: dict[str, Mirror] = {}
    skipped: list[str] = []
    for position, (attributes, text) in enumerate(record.urls, 1):
        try:
            url = _usable(attributes, text, base)
        except FastdlError as exc:
            skipped.append(f"mirror {position} is ignored: {exc.message}")
            warnings.note(skipped[-1])
            continue
        if base is not None and (url.origin, url.target) == (base.origin, base.target):
            raise _fail("the metalink names itself as a mirror of the file")
        if url.is_metalink_name() and not name.lower().endswith(METALINK_SUFFIXES):
            raise _fail("the metalink refers to another metalink, which is never followed")
        mirror = _mirror(text, attributes, f"mirror {position}", warnings)
        if text not in best or mirror.priority < best[text].priority:
            best[text] = mirror
    if not best:
        raise PolicyError(
            "the metalink has no mirror that may be used" + (f": {skipped[0]}" if skipped else ""),
            phase="resolve",
        )
    if len(best) > MAX_MIRRORS:
        warnings.note(f"the metalink has {len(best)} mirrors: the best {MAX_MIRRORS} are used")
    return tuple(sorted(best.values(), key=lambda mirror: mirror.priority)[:MAX_MIRRORS])


def _usable(attributes: Attributes, text: str, base: Url | None) -> Url:
    """The URL of a mirror that may be used; UsageError or PolicyError gives the reason."""
    if "torrent" in attributes.get("type", "").lower():
        raise PolicyError("it is a torrent")
    if _ABSOLUTE.match(text) is None:
        raise UsageError("it is not an absolute URL")
    url = Url.parse_sent(text)
    if reason := refused_referral(url, base or _LOCAL):
        raise PolicyError(reason)
    return url


def _mirror(text: str, attributes: Attributes, which: str, warnings: _Warnings) -> Mirror:
    location = attributes.get("location")
    if location is not None and _LOCATION.fullmatch(location) is None:
        warnings.note(f"{which}: the location is not a country code")
        location = None
    connections = _number(attributes.get("maxconnections"))
    return Mirror(
        url=text,
        priority=_priority(attributes, which, warnings),
        location=location.lower() if location else None,
        maxconnections=connections or None,
    )


def _priority(attributes: Attributes, which: str, warnings: _Warnings) -> int:
    """1 is best. Version 3 has a preference instead, where 100 is best and 0 is last."""
    if (text := attributes.get("priority")) is not None:
        priority = _number(text)
        if priority is not None and 1 <= priority <= LOWEST_PRIORITY:
            return priority
        warnings.note(f"{which}: the priority is not a number from 1 to {LOWEST_PRIORITY}")
    elif (text := attributes.get("preference")) is not None:
        preference = _number(text)
        if preference is not None and preference <= 100:
            return 101 - preference
        warnings.note(f"{which}: the preference is not a number from 0 to 100")
    return LOWEST_PRIORITY
