# SPDX-License-Identifier: Apache-2.0
"""Parsing metalink documents: hostile XML in, plain records out, under limits.

No document type at all, so no entities and nothing external; UTF-8 and UTF-16, and what
declares another encoding of its ASCII characters; every dimension of the document is bounded
before it is kept. Elements of other namespaces are skipped whole (RFC 5854, 5). What the
records mean is decided in ``metalink.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from time import thread_time

from fastdl.errors import LimitError, MetalinkError

MAX_DOCUMENT = 8 * 1024 * 1024
MAX_DEPTH = 16
MAX_ELEMENTS = 65_536
MAX_PIECES = 4 * 1024 * 1024
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE = 4096
MAX_TEXT = 64 * 1024
MAX_TOKEN = 128 * 1024
MAX_SECONDS = 2.0
"""Bounds of one document: bytes, nesting, elements outside and inside piece lists, attributes
of one element, characters of one attribute or text, bytes of one tag, processor time."""

NAMESPACE_V4 = "urn:ietf:params:xml:ns:metalink"
NAMESPACES_V3 = ("http://www.metalinker.org/", "https://www.metalinker.org/")
"""The second is a mistake of some generators; it can mean nothing else."""
_XINCLUDE = "http://www.w3.org/2001/XInclude"

_SLICE = 64 * 1024
_CHILDREN = {
    "metalink": frozenset({"file"}),
    "file": frozenset({"size", "hash", "pieces", "url", "metaurl", "signature"}),
    "pieces": frozenset({"hash"}),
}
_LEAVES = frozenset({"size", "hash", "url", "metaurl", "signature"})
# Version 3 wraps the same elements once more; to us these wrappers are transparent.
_WRAPPERS = {"metalink": frozenset({"files"}), "file": frozenset({"resources", "verification"})}

_DECLARED = re.compile(rb"""<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_WIDE = re.compile(r"utf[-_]?16(?:[-_]?[lb]e)?")
# Names that generators write for encodings that have ASCII in them. (UTF-7 and the like read
# ASCII otherwise.)
_NARROW = re.compile(
    r"utf[-_]?8|(?:us-?)?ascii|latin-?[0-9]|iso[-_]?8859[-_][0-9]{1,2}|(?:windows-|cp)125[0-8]"
    r"|cp(?:437|850)|koi8-[ru]|gb2312|gbk|gb18030|big5|euc[-_](?:jp|kr)|shift[-_]jis"
)

Attributes = dict[str, str]
_NO_ATTRIBUTES: Attributes = {}


@dataclass(slots=True)
class PiecesRecord:
    """One ``pieces`` element and its hashes, in document order, as (attributes, text)."""

    attributes: Attributes
    hashes: list[tuple[Attributes, str]] = field(default_factory=list)


@dataclass(slots=True)
class FileRecord:
    """One ``file`` element; leaves are (attributes, text without surrounding white space)."""

    attributes: Attributes
    sizes: list[str] = field(default_factory=list)
    hashes: list[tuple[Attributes, str]] = field(default_factory=list)
    pieces: list[PiecesRecord] = field(default_factory=list)
    urls: list[tuple[Attributes, str]] = field(default_factory=list)
    metaurls: list[tuple[Attributes, str]] = field(default_factory=list)
    signatures: list[tuple[Attributes, str]] = field(default_factory=list)


@dataclass(slots=True)
class DocumentRecord:
    """A whole document: *version* 3 or 4, *namespaced* False where no namespace was declared."""

    version: int = 4
    namespaced: bool = True
    files: list[FileRecord] = field(default_factory=list)


def read_document(data: bytes) -> DocumentRecord:
    """Return the content of the metalink *data*.

    MetalinkError: not XML, not UTF-8 or UTF-16, has a document type, or is no metalink.
    LimitError: larger, deeper or slower to read than the limits above.
    """
    from xml.parsers import expat  # own limits; only metalinks need it

    text = _decode(data).encode()
    reader = _Reader(_declared(text[:400]))
    parser = expat.ParserCreate("utf-8", "\n")
    parser.buffer_text = True
    parser.XmlDeclHandler = reader.declaration
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    deadline = thread_time() + MAX_SECONDS
    try:
        for at in range(0, len(text), _SLICE):
            parser.Parse(text[at : at + _SLICE], False)  # noqa: FBT003 - expat's interface
            # An unfinished token is scanned again with every slice: without a bound on
            # its length that would be quadratic.
            if at + _SLICE - parser.CurrentByteIndex > MAX_TOKEN:
                raise LimitError("the metalink holds a tag or comment of more than 128 KiB")
            if thread_time() > deadline:
                raise LimitError(f"the metalink takes more than {MAX_SECONDS:g} s to read")
        parser.Parse(b"", True)  # noqa: FBT003 - expat's interface
    except expat.ExpatError as exc:
        reason = expat.ErrorString(exc.code)
        raise MetalinkError(
            f"the metalink is not well-formed XML: {reason} in line {exc.lineno}"
        ) from None
    return reader.document


def _decode(data: bytes) -> str:
    """The text of *data*, without byte order mark.

    It must be the same in the encoding that it declares and in the one that it shows:
    otherwise two readers would read two documents.
    """
    if len(data) > MAX_DOCUMENT:
        raise LimitError(f"the metalink is larger than {MAX_DOCUMENT // 1024 // 1024} MiB")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text: str | None
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeError:
        text = None if wide else _in_declared_encoding(data)
    if text is None:
        raise MetalinkError("the metalink is in no encoding that is read, or not in the declared")
    # expat guesses again from the first bytes; nothing may be left for it to guess from.
    if text.startswith("\ufeff") or "\0" in text:
        raise MetalinkError("the metalink is in an encoding other than it seems")
    declared = _declared(text[:400].encode())
    fits = _WIDE if wide else _NARROW
    if declared is not None and (
        fits.fullmatch(declared) is None
        or (not wide and not text.isascii() and _in_declared_encoding(data) != text)
    ):
        raise MetalinkError("the metalink's declared encoding is not the one it is written in")
    return text


def _declared(head: bytes) -> str | None:
    match = _DECLARED.match(head)
    return match[1].decode("ascii").lower() if match else None


def _in_declared_encoding(data: bytes) -> str | None:
    """*data* read as it declares to be; None where it declares nothing that is read so."""
    name = _declared(data.removeprefix(b"\xef\xbb\xbf")[:400])
    if name is None or _NARROW.fullmatch(name) is None:
        return None
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode(name)
    except (UnicodeError, LookupError):
        return None


def _refuse_doctype(*_: object) -> None:
    raise MetalinkError("the metalink has a document type declaration (DOCTYPE), which is refused")


class _Reader:
    """The expat handlers. ``_stack`` names the known elements that are open, outermost first."""

    def __init__(self, encoding: str | None) -> None:
        self.document = DocumentRecord()
        self._encoding = encoding
        self._namespace = ""
        self._stack: list[str] = []
        self._depth = 0
        self._skipping = 0  # open elements of a subtree that is none of ours
        self._elements = 0
        self._pieces = 0
        self._attributes: Attributes = {}
        self._text: list[str] = []
        self._text_len = 0

    def declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() != self._encoding:
            raise MetalinkError("the metalink's declaration is longer than anybody writes it")

    def start(self, name: str, attributes: Attributes) -> None:
        namespace, _, local = name.rpartition("\n")
        self._bound(attributes)
        if namespace == _XINCLUDE:
            raise MetalinkError("the metalink includes another document (XInclude)")
        if self._depth == 1:
            self._open_root(namespace, local, attributes)
            return
        if self._skipping or namespace != self._namespace:
            self._skipping += 1
            return
        parent = self._stack[-1]
        if local in _CHILDREN.get(parent, ()):
            self._stack.append(local)
            self._open(local, attributes)
        elif local in _WRAPPERS.get(parent, ()) and self._wrapped(local):
            self._stack.append(parent)
        else:
            self._skipping = 1

    def end(self, _name: str) -> None:
        self._depth -= 1
        if self._skipping:
            self._skipping -= 1
            return
        local = self._stack.pop()
        if local in _LEAVES:
            self._close_leaf(local, "".join(self._text).strip(" \t\r\n"))

    def text(self, data: str) -> None:
        if self._skipping or not self._stack or self._stack[-1] not in _LEAVES:
            return
        self._text_len += len(data)
        if self._text_len > MAX_TEXT:
            raise LimitError("the metalink holds a text of more than 64 KiB")
        self._text.append(data)

    def _bound(self, attributes: Attributes) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LimitError(f"the metalink is nested deeper than {MAX_DEPTH} elements")
        if self._stack and self._stack[-1] == "pieces" and not self._skipping:
            self._pieces += 1
        else:
            self._elements += 1
        if self._elements > MAX_ELEMENTS or self._pieces > MAX_PIECES:
            raise LimitError("the metalink has too many elements")
        if len(attributes) > MAX_ATTRIBUTES or any(
            len(text) > MAX_ATTRIBUTE for pair in attributes.items() for text in pair
        ):
            raise LimitError("the metalink has too many or too long attributes in an element")

    def _open_root(self, namespace: str, local: str, attributes: Attributes) -> None:
        if local != "metalink" or namespace not in (NAMESPACE_V4, *NAMESPACES_V3, ""):
            raise MetalinkError("the document is XML, but not a metalink of version 3 or 4")
        self._namespace = namespace
        self._stack.append(local)
        declared_v3 = not namespace and attributes.get("version", "").startswith("3")
        self.document.version = 3 if namespace in NAMESPACES_V3 or declared_v3 else 4
        self.document.namespaced = bool(namespace)

    def _wrapped(self, local: str) -> bool:
        """Whether a wrapper of version 3 has its meaning here; without namespace it tells."""
        if local == "files" and not self._namespace:
            self.document.version = 3
        return self.document.version == 3

    def _open(self, local: str, attributes: Attributes) -> None:
        if local == "file":
            self.document.files.append(FileRecord(attributes))
        elif local == "pieces":
            self.document.files[-1].pieces.append(PiecesRecord(attributes))
        else:
            # Half a million piece hashes fit in a document: they share one empty dict.
            self._attributes = attributes or _NO_ATTRIBUTES
            self._text, self._text_len = [], 0

    def _close_leaf(self, local: str, text: str) -> None:
        current = self.document.files[-1]
        leaf = (self._attributes, text)
        if local == "size":
            current.sizes.append(text)
        elif local == "url":
            current.urls.append(leaf)
        elif local == "metaurl":
            current.metaurls.append(leaf)
        elif local == "signature":
            current.signatures.append(leaf)
        elif self._stack[-1] == "pieces":
            current.pieces[-1].hashes.append(leaf)
        else:
            current.hashes.append(leaf)
