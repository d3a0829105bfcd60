# SPDX-License-Identifier: Apache-2.0
"""What a source's name means: http, https, nfs and file URLs, and plain paths.

One strict reading (RFC 3986, with the URL standard's mapping of host names) for every
part of fastdl, so that the host that was checked is the host that gets connected. What
two programs could read differently is refused rather than repaired.
"""

from __future__ import annotations

import re

from fastdl.errors import PolicyError, UsageError
from fastdl.named_tuple import NamedTuple

MAX_URL = 8192
MAX_SENT_URL = 64 * 1024
"""Characters in a URL that is typed, and in one that a server or document sends: signed links
with a policy in them are longer than anybody types, and grow where they are encoded."""

METALINK_SUFFIXES = (".meta4", ".metalink")

_DEFAULT_PORTS = {"http": 80, "https": 443, "nfs": 2049, "file": 0}
_NFS_NUMBERS = {
    "version": range(3, 5),
    "nfsport": range(1, 65536),
    "mountport": range(1, 65536),
    "uid": range(1 << 31),
    "gid": range(1 << 31),
}
# Patterns are text: compiling them all takes longer than reading a URL, so `re` compiles (and
# keeps) the ones that a source needs, and most need none.
_PORT_AND_PATH = r"[0-9]{1,5}(?:/|$)"
_NUMBER = r"[0-9]+|0[xX][0-9A-Fa-f]*"
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
_BAD_PERCENT = r"%(?![0-9A-Fa-f]{2})"
_TO_ENCODE = frozenset('"<>^`{|}')
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class Origin(NamedTuple):
    """What credentials, connections and limits are bound to; ``str()``: scheme://host:port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


class Url(NamedTuple):
    """One source's name, taken apart. ``str()`` and ``repr()`` never show a secret.

    *host*   lower case, punycode; an IPv6 address in its short form without brackets;
             empty for files
    *port*   the effective port: 80, 443, 2049 (nfs) where none was written; 0 for files
    *path*   http and https: as it is sent (percent-encoded, starts with ``/``);
             nfs and file: decoded, as the server or the kernel gets it
    *query*  as it is sent, without ``?``; None where there is none. nfs: how to mount
             (version, ports, uid, gid, export), checked and never secret
    *username, password*  decoded; None where there are none
    """

    scheme: str
    path: str
    host: str = ""
    port: int = 0
    query: str | None = None
    username: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, text: str, *, most: int = MAX_URL) -> Url:
        """Return what *text*, of at most *most* characters, means.

        UsageError: it is malformed, or longer. PolicyError: the scheme is not supported,
        or the host is an IPv4 address in an unusual spelling.
        """
        if not text or len(text) > most:
            raise UsageError(
                f"a source has at most {most} characters" if text else "a source is empty"
            )
        name, colon, rest = text.partition(":")
        if not colon or not _is_scheme(name):
            return cls(scheme="file", path=_checked_path(text))
        scheme = name.lower()
        if scheme not in _DEFAULT_PORTS:
            hint = "" if rest.startswith("//") else " (a file whose name has a colon: ./NAME)"
            if re.match(_PORT_AND_PATH, rest):
                hint = f" (for a URL put https:// or http:// in front of {scheme[:60]})"
            raise PolicyError(
                f"{scheme[:20]}: sources are not supported, only http, https, nfs and file{hint}"
            )
        _refuse_ambiguous(rest)
        if not rest.startswith("//"):
            raise UsageError(f"a {scheme} URL starts with {scheme}://")
        before, mark, after = rest[2:].partition("#")[0].partition("?")
        authority, slash, below = before.partition("/")
        path, query = slash + below, after if mark else None
        if scheme == "file":
            return cls._local(authority, path, query)
        userinfo, at, hostport = authority.rpartition("@")
        username, password = _credentials(userinfo) if at else (None, None)
        host, port = _host_and_port(hostport, _DEFAULT_PORTS[scheme])
        if scheme == "nfs":
            if at:
                raise UsageError("an nfs URL is nfs://server/export/path, without @")
            return cls(
                scheme=scheme,
                host=host,
                port=port,
                path=_export_path(path),
                query=_nfs_query(query),
            )
        return cls(
            scheme=scheme,
            host=host,
            port=port,
            path=_encoded(path) or "/",
            query=None if query is None else _encoded(query),
            username=username,
            password=password,
        )

    @classmethod
    def parse_sent(cls, text: str) -> Url:
        """As ``parse``, for a URL that a server or a document wrote.

        Blanks around it do not count; raw spaces in it and percent signs without two hex
        digits are sent encoded, as browsers do. Typed URLs are not corrected.
        """
        return cls.parse(_mended(text.strip(" \t\r\n")), most=MAX_SENT_URL)

    @classmethod
    def _local(cls, authority: str, path: str, query: str | None) -> Url:
        if authority.lower() not in ("", "localhost") or query is not None:
            raise UsageError("a file URL is file:///path: other hosts, @ and ? have no meaning")
        if not path.startswith("/"):
            raise UsageError("a file URL names an absolute path: file:///path")
        return cls(scheme="file", path=_checked_path(_decoded(path)))

    @property
    def is_http(self) -> bool:
        """Whether the source uses HTTP, encrypted or not."""
        return self.scheme in ("http", "https")

    @property
    def origin(self) -> Origin:
        """Scheme, host and port, the default one written out."""
        return Origin(self.scheme, self.host, self.port)

    @property
    def netloc(self) -> str:
        """``host`` or ``host:port``, as a Host field and a URL have it, never with userinfo."""
        host = _bracketed(self.host)
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """The path and query of a request line."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    def request_text(self) -> str:
        """Return the URL to connect with: with its query, without userinfo. May hold secrets."""
        return f"{self.scheme}://{self.netloc}{self.target}" if self.is_http else self.display()

    def display(self) -> str:
        """Return the URL as it may be shown: no userinfo, no query values, no fragment."""
        if self.is_http:
            shown = f"{self.scheme}://{self.netloc}{self.path}"
            return shown if self.query is None else f"{shown}?{_masked(self.query)}"
        if self.scheme == "nfs":
            # Its parameters are ports and numbers: nothing in them is secret.
            shown = f"nfs://{self.netloc}{_quoted(self.path)}"
            return shown if self.query is None else f"{shown}?{self.query}"
        return (
            f"file://{_quoted(self.path)}" if self.path.startswith("/") else _printable(self.path)
        )

    def __str__(self) -> str:
        return self.display()

    def __repr__(self) -> str:
        return f"Url({self.display()!r})"

    def without_userinfo(self) -> Url:
        """Return the same URL without username and password."""
        if self.username is None and self.password is None:
            return self
        return Url(
            scheme=self.scheme, host=self.host, port=self.port, path=self.path, query=self.query
        )

    def join(self, reference: str) -> Url:
        """Return where *reference* (a Link target) leads from here (RFC 3986, 5).

        Mended as by ``parse_sent``; userinfo of this URL is not inherited. Errors as ``parse``.
        """
        from urllib.parse import urljoin  # 3 ms that most runs never need

        if len(reference) > MAX_SENT_URL:
            raise UsageError(f"a reference has at most {MAX_SENT_URL} characters")
        reference = _mended(reference.strip(" \t\r\n"))
        _refuse_ambiguous(reference)
        if not self.is_http:
            raise UsageError(f"a {self.scheme} source has no references")
        try:
            return Url.parse(urljoin(self.request_text(), reference), most=MAX_SENT_URL)
        except ValueError:
            raise UsageError("a reference is malformed") from None

    def last_segment(self) -> str | None:
        """Return the decoded last path segment if it is safe as a file name, else None."""
        segment = self.path.rpartition("/")[2]
        try:
            name = _decoded(segment) if self.is_http else segment
            encoded = name.encode()
        except (UsageError, UnicodeError):
            return None
        unsafe = name in ("", ".", "..") or "/" in name or "\\" in name or name[0] in "~-"
        if unsafe or _has_control(name) or len(encoded) > 255:
            return None
        return name

    def is_metalink_name(self) -> bool:
        """Whether the path ends like a metalink's does (``.meta4``, ``.metalink``)."""
        return self.path.lower().endswith(METALINK_SUFFIXES)

    @property
    def nfs_options(self) -> tuple[str, ...]:
        """Names of the parameters of an nfs URL (uid, nfsport…); () where there are none."""
        words = self.query.split("&") if self.scheme == "nfs" and self.query else []
        return tuple(word.partition("=")[0] for word in words)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _mended(text: str) -> str:
    return re.sub(_BAD_PERCENT, "%25", text.replace(" ", "%20"))


def _is_scheme(name: str) -> bool:
    """Whether *name* is a letter, then letters, digits, ``+``, ``.`` and ``-`` (RFC 3986, 3.1).

    One letter alone is none: ``C:`` is a drive.
    """
    plain = name.replace("+", "").replace(".", "").replace("-", "")
    return len(name) > 1 and name.isascii() and name[0].isalpha() and plain.isalnum()


def _has_control(text: str) -> bool:
    if text.isascii() and text.isprintable():
        return False
    return re.search(_CONTROL, text) is not None


def _refuse_ambiguous(text: str) -> None:
    """Refuse characters that programs treat differently, or that could end a request line."""
    if _has_control(text):
        raise UsageError("a URL may not contain control characters")
    if " " in text or "\\" in text:
        raise UsageError("a URL may not contain spaces or backslashes: write %20 or %5C")
    if "%" in text and re.search(_BAD_PERCENT, text):
        raise UsageError("a URL contains a % without two hex digits: write %25 for a percent sign")


def _encoded(text: str) -> str:
    """*text* with what may not stand raw in a request line percent-encoded as UTF-8."""
    return "".join(
        char
        if char.isascii() and char not in _TO_ENCODE
        else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in text
    )


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote  # 3 ms that most runs never need

    try:
        return unquote(text, errors="strict")
    except UnicodeError:
        raise UsageError("a URL's percent-encoded part is not UTF-8") from None


def _quoted(path: str) -> str:
    from urllib.parse import quote  # 3 ms that most runs never need

    return quote(path, safe="/!$&'()*+,;=:@~", errors="surrogateescape")


def _printable(path: str) -> str:
    return re.sub(_CONTROL, lambda m: m[0].encode("unicode_escape").decode("ascii"), path)


def _masked(query: str) -> str:
    """*query* with every value replaced; a part without ``=`` may be a token: replaced whole."""
    parts = (part.partition("=") for part in re.split("[&;]", query))
    return "&".join(f"{name}=…" if equals else "…" for name, equals, _ in parts)


def _checked_path(path: str) -> str:
    if "\0" in path:
        raise UsageError("a path may not contain a NUL character")
    return path


def _export_path(path: str) -> str:
    """The decoded path of an nfs URL: absolute, without control characters and ``..``."""
    decoded = _decoded(path)
    if len(decoded) < 2 or ".." in decoded.split("/") or _has_control(decoded):
        raise UsageError("an nfs URL is nfs://server/export/path, without .. in it")
    return decoded


def _nfs_query(query: str | None) -> str | None:
    """The parameters of an nfs URL in one spelling; UsageError for what fastdl does not know."""
    known = []
    for word in (query or "").split("&") if query else []:
        name, _, value = word.partition("=")
        if name == "export":
            known.append("export=" + _quoted(_export_path(value)).replace("&", "%26"))
        elif name in _NFS_NUMBERS and value.isascii() and value.isdigit() and len(value) <= 10:
            if int(value) not in _NFS_NUMBERS[name]:
                raise UsageError(f"the parameter {name} of an nfs URL has an impossible value")
            known.append(f"{name}={int(value)}")
        else:
            raise UsageError(
                "an nfs URL takes the parameters version=3|4, nfsport, mountport, uid, gid "
                "(numbers) and export (a path)"
            )
    return "&".join(known) or None


def _credentials(userinfo: str) -> tuple[str, str | None]:
    if not userinfo or "@" in userinfo:
        raise UsageError(
            "a URL contains an @ before its host that is not user:password@ (write %40)"
        )
    name, colon, password = userinfo.partition(":")
    decoded = _decoded(name), _decoded(password) if colon else None
    if any(part and _has_control(part) for part in decoded):
        raise UsageError("a URL's user name or password contains control characters")
    return decoded


def _host_and_port(hostport: str, default_port: int) -> tuple[str, int]:
    bracketed, literal = hostport.startswith("["), ""
    if bracketed:
        literal, bracket, rest = hostport[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise UsageError("a URL's IPv6 address is written [address]:port")
        host, colon, port = _ipv6(literal), rest[:1], rest[1:]
    else:
        name, colon, port = hostport.partition(":")
        host = _host_name(name)
    if not colon:
        return host, default_port
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise UsageError("a URL's port is a number from 1 to 65535")
    return host, int(port)


def _ipv6(literal: str) -> str:
    from ipaddress import IPv6Address  # 5 ms that most runs never need

    try:
        address = IPv6Address(literal)
    except ValueError:
        raise UsageError("a URL's IPv6 address is malformed") from None
    if address.scope_id is not None:
        raise UsageError("a URL's IPv6 address may not name an interface (%eth0)")
    return address.compressed


def _host_name(name: str) -> str:
    """*name* in lower case and punycode; an IPv4 address only in its one plain spelling."""
    host = name.lower() if name.isascii() else _punycode(name)
    if not host:
        raise UsageError("a URL has no host")
    labels = host.removesuffix(".").split(".")
    # The URL standard's rule: a host whose last label is a number *is* an IPv4 address,
    # and resolvers accept 2130706433, 0177.1, 0x7f.1 and 127.1 for one.
    if labels[-1][:1].isdigit() and re.fullmatch(_NUMBER, labels[-1]):
        plain = len(labels) == 4 and all(_is_octet(label) for label in labels)
        if not plain or not name == host == ".".join(labels):
            raise PolicyError(
                "a URL's host is an IPv4 address in an unusual spelling: "
                "write four decimal numbers, like 192.0.2.1"
            )
        return host
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise UsageError(f"{name[:60]!a} is not a host name")
    return host


def _is_octet(label: str) -> bool:
    return label.isdigit() and len(label) < 4 and str(int(label)) == label and int(label) < 256


def _is_label(label: str) -> bool:
    return 0 < len(label) < 64 and _LABEL.issuperset(label) and "-" not in (label[0], label[-1])


def _punycode(name: str) -> str:
    import idna  # 10 ms that only such names need

    try:
        return idna.encode(name[:256], uts46=True, transitional=False).decode("ascii").lower()
    except UnicodeError:
        # Some fullwidth spellings of IPv4 addresses fail here; they are refused all the same.
        raise UsageError(f"{name[:60]!a} is not a host name") from None


def looks_like_host(path: str) -> bool:
    """Whether a relative path that leads to no file may be a URL without its scheme."""
    first = re.sub(r":[0-9]{1,5}$", "", path.removeprefix("//").partition("/")[0])
    labels = first.lower().split(".")
    return len(labels) > 1 and all(_is_label(label) for label in labels)
