# SPDX-License-Identifier: Apache-2.0
"""Every error that fastdl raises deliberately.

One table gives each class its exit code, its name and whether a retry can help; the command line,
the agent's responses, the API and the documentation all use it. The C core uses the same numbers
(``csrc/base/err.h``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Final, Self


class Reason(StrEnum):
    """The reason, if a caller decides by more than the class. The message is for people only."""

    NEEDS_STAGING = "needs-staging"
    """A decoded image's tables come after its data: it has to be stored before it is decoded."""
    WRONG_PIECE = "wrong-piece"
    """The only mirror sent one piece wrong: all other bytes that were recorded are still good."""
    UNSUPPORTED_PROTOCOL = "unsupported-protocol"
    """The command's protocol and the scheme of its URL are not a known pair."""
    NO_TEMPORARY_LOCATION = "no-temporary-location"
    """The folder that the host's configuration names does not exist."""
    UNKNOWN_HOST = "unknown-host"
    """No host of this id and key is enrolled: an unused token enrols it again."""
    SEVERAL_FILES = "several-files"
    """The metalink describes several files, and one is wanted."""
    TWO_AGENTS = "two-agents"
    """Another agent is connected as this host."""


REASONS: tuple[Reason | None, ...] = (None, Reason.NEEDS_STAGING, Reason.WRONG_PIECE)
"""The C core's reasons, by their numbers (``enum fdl_reason``)."""


class FastdlError(Exception):
    """Base of all errors below. ``str()`` is one sentence that an operator can act on.

    Its fields are set where it is raised; ``add_context`` fills in what only a caller knows.

    ``phase``   the phase of the transfer (resolve, fetch, decode, land…)
    ``origin``  the mirror or host concerned, without userinfo and query values
    ``offset``  the byte offset in the source or the target, if known
    ``retryable`` whether the same command can succeed later although nobody changed anything
    ``retry_elsewhere`` whether another host may succeed where this one failed
    ``reason``  what a caller may decide by; None if the class is enough
    ``http_status`` the response's status, if the status is the error
    ``retry_after_s`` the seconds that the server asked to wait (Retry-After)
    ``mirror``  the index of the mirror concerned among the job's
    ``public_source`` whether every address that the job tried is public: then details may be
                reported to the user who named the source
    """

    exit_code: ClassVar[int] = 74
    code_name: ClassVar[str] = "INTERNAL"
    default_retryable: ClassVar[bool] = False
    default_elsewhere: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        phase: str | None = None,
        origin: str | None = None,
        offset: int | None = None,
        retryable: bool | None = None,
        reason: Reason | None = None,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        mirror: int | None = None,
        public_source: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.phase = phase
        self.origin = origin
        self.offset = offset
        self.retryable = self.default_retryable if retryable is None else retryable
        self.reason = reason
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        self.mirror = mirror
        self.public_source = public_source

    def add_context(
        self,
        *,
        phase: str | None = None,
        origin: str | None = None,
        public_source: bool | None = None,
    ) -> Self:
        """Fill in what was not known where the error was raised; returns the error.

        An existing *phase* or *origin* stays: the raising code knew more.
        """
        self.phase = self.phase or phase
        self.origin = self.origin or origin
        self.public_source = self.public_source if public_source is None else public_source
        return self

    @property
    def retry_elsewhere(self) -> bool:
        """True if another host may succeed (CloudStack's ``retryOnOtherHosts``)."""
        return self.default_elsewhere

    def __str__(self) -> str:
        parts = [self.message]
        if self.origin and self.origin not in self.message:
            parts.append(f"origin {self.origin}")
        if self.offset is not None:
            parts.append(f"offset {self.offset}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The error as the JSON object that ``--json`` prints; ``error_from`` reads it."""
        return {
            "code": self.exit_code,
            "class": self.code_name,
            "message": self.message,
            "phase": self.phase,
            "origin": self.origin,
            "offset": self.offset,
            "retryable": self.retryable,
            "reason": self.reason,
            "http_status": self.http_status,
            "retry_after_s": self.retry_after_s,
            "public_source": self.public_source,
        }


class UsageError(FastdlError):
    """The command, an option or the configuration is wrong."""

    exit_code = 2
    code_name = "USAGE"


class NetError(FastdlError):
    """DNS, connect, reset, stall or deadline."""

    exit_code = 10
    code_name = "NET"
    default_retryable = True
    default_elsewhere = True


class HttpStatusError(FastdlError):
    """The origin's final response was an error status."""

    exit_code = 11
    code_name = "HTTP_STATUS"
    default_elsewhere = True


class HttpProtocolError(FastdlError):
    """A malformed response, wrong framing or a range that was not requested."""

    exit_code = 12
    code_name = "HTTP_PROTOCOL"
    default_elsewhere = True


class OriginChangedError(FastdlError):
    """The source changed during the transfer or since the journal was written."""

    exit_code = 13
    code_name = "ORIGIN_CHANGED"
    default_retryable = True
    default_elsewhere = True


class TrustError(FastdlError):
    """The certificate chain, its name or its dates; or the keystore cannot be read."""

    exit_code = 14
    code_name = "TLS_TRUST"
    default_elsewhere = True


class PolicyError(FastdlError):
    """Forbidden address, scheme, downgrade, too many redirects, or a missing checksum."""

    exit_code = 15
    code_name = "POLICY"


class MetalinkError(FastdlError):
    """The metalink is malformed, contradicts itself or carries an unsafe name."""

    exit_code = 20
    code_name = "METALINK"


class IntegrityError(FastdlError):
    """A digest does not match: the bytes must not be used."""

    exit_code = 21
    code_name = "INTEGRITY"


class SizeError(FastdlError):
    """The length differs from what the metalink or the command says."""

    exit_code = 22
    code_name = "SIZE"


class FormatError(FastdlError):
    """The image or its compression is malformed or not supported."""

    exit_code = 23
    code_name = "FORMAT"


class UnsafeImageError(FastdlError):
    """The image refers to something outside itself, hides its format or is encrypted."""

    exit_code = 24
    code_name = "UNSAFE_IMAGE"


class LimitError(FastdlError):
    """A decompression bomb, a quota, or a memory or processor limit."""

    exit_code = 25
    code_name = "LIMIT"


class ChecksumListError(FastdlError):
    """The checksum list is malformed, does not name the file, or contradicts itself."""

    exit_code = 26
    code_name = "CHECKSUM_LIST"


class SinkSpaceError(FastdlError):
    """No space, over quota, or a device smaller than the image."""

    exit_code = 30
    code_name = "SINK_SPACE"
    default_retryable = True
    default_elsewhere = True


class SinkIOError(FastdlError):
    """The target failed: a write, a flush, a close or the read-back."""

    exit_code = 31
    code_name = "SINK_IO"
    default_elsewhere = True


class SinkBusyError(FastdlError):
    """The target is mounted, held, or locked by another job."""

    exit_code = 32
    code_name = "SINK_BUSY"
    default_retryable = True


class SinkRefusedError(FastdlError):
    """A wrong device, read-only, a symlink, outside the pool, or a signature is present."""

    exit_code = 33
    code_name = "SINK_REFUSED"


class JournalError(FastdlError):
    """The journal is corrupt or belongs to another job; the download starts over."""

    exit_code = 40
    code_name = "JOURNAL"
    default_retryable = True


class TargetChangedError(FastdlError):
    """The target does not match the journal; the download starts over."""

    exit_code = 41
    code_name = "TARGET_CHANGED"
    default_retryable = True


class KeystoreAuthError(FastdlError):
    """The keystore's passphrase is wrong or missing; the keystore is unchanged."""

    exit_code = 50
    code_name = "KEYSTORE_AUTH"


class KeystoreCorruptError(FastdlError):
    """The keystore is damaged or of an unsupported kind; it is unchanged."""

    exit_code = 51
    code_name = "KEYSTORE_CORRUPT"


class CertRejectedError(FastdlError):
    """The certificate cannot be used; the keystore is unchanged."""

    exit_code = 52
    code_name = "CERT_REJECTED"


class AliasConflictError(FastdlError):
    """The alias holds another certificate or is reserved; the keystore is unchanged."""

    exit_code = 53
    code_name = "ALIAS_CONFLICT"


class ApiAuthError(FastdlError):
    """The request's signature, session or expiry is not valid (HTTP 401)."""

    exit_code = 60
    code_name = "API_AUTH"


class ApiParamError(FastdlError):
    """A parameter is missing or wrong (HTTP 431 or 400)."""

    exit_code = 61
    code_name = "API_PARAM"


class ApiConflictError(FastdlError):
    """The request conflicts with the current state (HTTP 409 or 530)."""

    exit_code = 62
    code_name = "API_CONFLICT"


class ApiLimitError(FastdlError):
    """Too many requests (HTTP 429)."""

    exit_code = 63
    code_name = "API_LIMIT"
    default_retryable = True


class AgentLostError(FastdlError):
    """The connection to the agent or to the manager was lost."""

    exit_code = 70
    code_name = "AGENT_LOST"
    default_retryable = True
    default_elsewhere = True


class AgentRefusedError(FastdlError):
    """The agent or the manager refused the other side."""

    exit_code = 71
    code_name = "AGENT_REFUSED"


class ConfinementError(FastdlError):
    """The host cannot confine downloads as its configuration requires."""

    exit_code = 72
    code_name = "CONFINEMENT"
    default_elsewhere = True


class InternalError(FastdlError):
    """A bug in fastdl."""


class Cancelled(FastdlError):
    """The user or the caller cancelled; what was fetched is kept for a resume."""

    exit_code = 130
    code_name = "CANCELLED"
    default_retryable = True


_SHORT = {
    errno.EMFILE: "the process has no file descriptors left (ulimit -n)",
    errno.ENFILE: "the system has no file descriptors left",
    errno.ENOMEM: "the system has no memory left",
    errno.EAGAIN: "the system gives no more threads or memory (ulimit -u)",
}


def shortage(exc: BaseException, what: str = "") -> LimitError | None:
    """What the machine ran out of, if that is what *exc* reports; None for every other failure.

    Such a failure is never a bug: the process needs more of the resource. *what* names the step
    that failed.
    """
    text = None
    if isinstance(exc, MemoryError):
        text = _SHORT[errno.ENOMEM]
    elif isinstance(exc, OSError) and exc.errno is not None:
        text = _SHORT.get(exc.errno)
    elif isinstance(exc, RuntimeError) and "can't start new thread" in str(exc):
        text = _SHORT[errno.EAGAIN]
    elif isinstance(exc, (ImportError, OSError)):  # of the dynamic linker, which has only words
        said = str(exc)
        if "failed to map segment" in said:
            text = _SHORT[errno.ENOMEM]
        else:
            text = next((_SHORT[number] for number in _SHORT if os.strerror(number) in said), None)
    if text is None:
        return None
    return LimitError(f"{what}: {text}" if what else text)


def _leaves(cls: type[FastdlError]) -> list[type[FastdlError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _leaves(sub))]


BY_CODE: dict[int, type[FastdlError]] = {
    cls.exit_code: cls for cls in _leaves(FastdlError) if cls is not FastdlError
}
"""Exit code → class, for the command line, the API and the C core."""

BY_THE_SOURCE: Final = range(10, 30)
"""Exit codes of errors about what a source did or sent: from NET to LIMIT."""


def error_from(plain: Mapping[str, Any]) -> FastdlError:
    """The error that ``to_dict`` made *plain* of, in another process; InternalError for an unknown
    code.

    The fields already have their types: the code that read them from outside has checked them.
    """
    reason = plain.get("reason")
    return BY_CODE.get(plain["code"], InternalError)(
        plain["message"],
        phase=plain.get("phase"),
        origin=plain.get("origin"),
        offset=plain.get("offset"),
        retryable=plain.get("retryable"),
        reason=Reason(reason) if reason in set(Reason) else None,
        http_status=plain.get("http_status"),
        retry_after_s=plain.get("retry_after_s"),
        public_source=plain.get("public_source") is True,
    )


def as_error(exc: BaseException) -> FastdlError:
    """*exc* as one of the errors above: itself, what the machine ran out of, or a bug."""
    if isinstance(exc, FastdlError):
        return exc
    return shortage(exc) or InternalError(f"{type(exc).__name__}: {exc}")
