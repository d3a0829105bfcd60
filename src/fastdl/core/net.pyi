# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

KINDS: dict[str, int]
RANGES: dict[int, bool | None]
STATES: dict[int, str]
LOCAL_CLASS: int

def address_class(address: Buffer) -> int:
    """The class of a socket address, as ``Net.allows`` expects it."""

def is_site_address(host: str) -> bool:
    """Whether *host* is an address, not a name, and not a public one."""

def is_hop_port(port: int) -> bool:
    """Whether a redirect, a metalink or a link may lead to *port*."""

@final
class Net:
    """What all connections of a job share; times in seconds, *anchors* are PEM texts.

    *identity*  (certificate and chain, key, passphrase or None) for servers that ask; PEM
    *proxies*   (for http, for https, what needs none), as curl reads each of them
    *interface* name or own address to connect from; *family* 4 or 6, 0: either
    *pins*      HOST:PORT:ADDRESS[,ADDRESS…]: what a name resolves to, as curl reads it
    *cookies*   (host, path, whether over TLS, value of a Set-Cookie field), as if it had been sent
    """

    def __new__(
        cls,
        *,
        connect_timeout: float,
        stall_timeout: float,
        follow_redirects: bool,
        strict: bool,
        allowed_cidrs: Sequence[str] = (),
        nfs_servers: Sequence[str] = (),
        system_trust: bool = True,
        anchors: Sequence[str] = (),
        identity: tuple[bytes, bytes, bytes | None] | None = None,
        proxies: tuple[str | None, str | None, str | None] | None = None,
        interface: str | None = None,
        family: int = 0,
        pins: Sequence[str] = (),
        cookies: Sequence[tuple[str, str, bool, str]] = (),
    ) -> Net: ...
    def allows(self, address: Buffer, *, from_class: int | None = None, nfs: bool = False) -> bool:
        """Whether the policy allows a connection to a socket address (``struct sockaddr``).

        *from_class*: of the address that led here, see ``address_class``; None where it was
        typed. *nfs*: for NFS. ValueError if it is not a socket address.
        """

    @property
    def public_only(self) -> bool:
        """Whether every address that was tried or refused is public; False before the first."""

@final
class Wakeup:
    """Stops a stream from another thread, whatever it waits for. Idempotent."""

    def cancel(self) -> None: ...

@final
class Mirror:
    """One location of the bytes, and what was learned about it; *kind* is one of KINDS."""

    def __new__(
        cls,
        kind: str,
        url: str,
        *,
        headers: str | None = None,
        priority: int = 999999,
        max_connections: int = 1,
        linked: bool = False,
        from_class: int = ...,
        fd: int = -1,
    ) -> Mirror: ...
    @property
    def url(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def final_url(self) -> str | None: ...
    @property
    def etag(self) -> str: ...
    @property
    def last_modified(self) -> str: ...
    @property
    def total(self) -> int | None: ...
    @property
    def ranges(self) -> bool | None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str:
        """Why it is no longer used, "" while it is used."""

    @property
    def error_code(self) -> int:
        """Exit code of its last error, 0 for none."""

    @property
    def max_connections(self) -> int: ...
    def limit(self, max_connections: int) -> None: ...
    def expect(self, size: int) -> None:
        """Set the size that a metalink or the caller gives."""

    @property
    def expected(self) -> int | None: ...
    def prove(self, provable: bool) -> None:
        """Set whether a digest or pieces decide about its bytes."""

    def expire(self, seconds: int) -> None:
        """Set when its signed link ends, in seconds since 1970: a refusal is final from then on."""

    def ignore_validators(self) -> None:
        """Let the digest decide alone: they contradicted each other."""

    @property
    def can_join(self) -> bool:
        """Whether parts of two of its responses may be put together."""

    def ask_for_the_whole(self) -> None:
        """The next request is a first one, and without Range: before any stream is open."""

    def note_error(self) -> None: ...
    def disqualify(self, reason: str) -> None:
        """Exclude it from the next job."""

    def rest(self) -> None:
        """Forget what a job learned about its speed and failures, for the next one."""

@final
class Stream:
    """Bytes of one mirror from an offset on. One thread at a time."""

    @property
    def net(self) -> Net: ...
    @property
    def mirror(self) -> Mirror: ...
    @property
    def wakeup(self) -> Wakeup: ...
    def __new__(cls, net: Net, mirror: Mirror, wakeup: Wakeup) -> Stream: ...
    def begin(self, offset: int, length: int | None = None) -> None: ...
    def head(self) -> tuple[int, list[tuple[str, str]]]:
        """(status, [(lower-case name, value)]) of the last response; (0, []) without HTTP."""

    def redirects(self) -> list[tuple[str, int, list[tuple[str, str]]]]:
        """[(url, class of the sender's address, [(name, value)])] before the last response.

        Of the fields of each redirect: link, digest and repr-digest.
        """

    def read(self, size: int) -> bytes:
        """1..size bytes, b"" at the end of the response."""

    @property
    def offset(self) -> int: ...
    @property
    def end(self) -> int | None: ...
    @property
    def whole(self) -> bool: ...
    @property
    def peer_class(self) -> int:
        """Class (its place in AddressClass) of the address that responded; a file's: loopback."""
    def close(self) -> None: ...
