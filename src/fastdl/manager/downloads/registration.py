# SPDX-License-Identifier: Apache-2.0
"""May this template be registered? CloudStack's rules and messages, as pure functions.

The address policy proper is applied on the host, at every connection; this checks what the text
shows: an early and clear error, not the final decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote

from fastdl.errors import ApiParamError, FastdlError, PolicyError, UsageError
from fastdl.manager.details import header_items
from fastdl.manager.settings import INTERNAL_SITES, NFS_SERVERS
from fastdl.model.address import AddressClass, classify, literal_address, refused, refused_nfs
from fastdl.model.digest import HEX_LENGTHS, algorithm_named
from fastdl.model.referral import refused_source
from fastdl.model.url import Url

HEADERS_MAX: Final = 16
HEADER_MAX: Final = 4096
ORIGINS_MAX: Final = 16
FORMATS: Final = (
    "QCOW2",
    "RAW",
    "VHD",
    "ISO",
    "OVA",
    "VHDX",
    "BAREMETAL",
    "VMDK",
    "VDI",
    "TAR",
    "ZIP",
    "DIR",
)
_COMPRESSED: Final = ("", ".zip", ".bz2", ".gz", ".xz", ".zst")
_EXTENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "qcow2": ("qcow2", "img", "metalink", "meta4"),
    "raw": ("img", "raw", "metalink", "meta4"),
    "iso": ("iso", "metalink", "meta4"),
    "vhd": ("vhd", "metalink", "meta4"),
    "vhdx": ("vhdx", "metalink", "meta4"),
    "vmdk": ("vmdk", "metalink", "meta4"),
    "vdi": ("vdi", "metalink", "meta4"),
}
_CHECKSUM: Final = re.compile(r"(?:\{([^{}]*)\})?([^{}]*)")
_ILLEGAL_HOST: Final = "Illegal host specified in url"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def check_url(
    url: str, *, allowed_cidrs: Iterable[str] = (), nfs_servers: Iterable[str] = ()
) -> Url:
    """Return *url*, parsed; ApiParamError if it cannot be an origin."""
    scheme = url.partition(":")[0].lower()
    if scheme == "file":
        raise ApiParamError("File:// type urls are currently unsupported")
    if scheme not in {"http", "https", "nfs"}:
        raise ApiParamError(f"Unsupported scheme for url: {url}")
    try:
        parsed = Url.parse(url)
    except PolicyError:  # 0x7f.1, 2130706433: an address in disguise
        raise ApiParamError(f"{_ILLEGAL_HOST}: an address in an unusual notation") from None
    except UsageError as exc:
        raise ApiParamError(f"Please specify a valid URL. URL:{url} is invalid: {exc}") from None
    if parsed.username is not None:
        raise ApiParamError(
            "Credentials in the URL would be shown to others: use details[0].HTTP_HEADER:…"
        )
    if reason := refused_source(parsed, "strict"):
        raise ApiParamError(f"Please specify a valid URL: {reason}")
    _check_host(parsed, tuple(allowed_cidrs), tuple(nfs_servers))
    return parsed


def _check_host(url: Url, allowed_cidrs: tuple[str, ...], nfs_servers: tuple[str, ...]) -> None:
    address = literal_address(url.host)
    if url.scheme == "nfs" and address is None and not (nfs_servers or allowed_cidrs):
        raise ApiParamError(f"No NFS server is listed in {NFS_SERVERS}")
    if address is None:
        return
    if url.scheme == "nfs":
        reason = refused_nfs(address, "strict", allowed_cidrs, nfs_servers)
    else:
        reason = refused(address, "strict", allowed_cidrs)
    if reason is not None and classify(address) is AddressClass.METADATA:
        raise ApiParamError(f"{_ILLEGAL_HOST}: {reason} without exception")
    if reason is not None:
        setting = NFS_SERVERS if url.scheme == "nfs" else INTERNAL_SITES
        raise ApiParamError(f"{_ILLEGAL_HOST}: {reason}; exceptions are listed in {setting}")


def origin_of(url: str) -> str:
    """Return scheme://host:port of *url*, without userinfo; '' where it has none."""
    try:
        parsed = Url.parse(url)
    except FastdlError:
        return ""
    return str(parsed.origin) if parsed.host else ""


def origins_of(url: str, mirrors: Iterable[str]) -> list[str]:
    """Return the origins that a download will use: the *mirrors*', or the own one of *url*."""
    found = [origin_of(mirror) for mirror in mirrors] or [origin_of(url)]
    return [origin for origin in dict.fromkeys(found) if origin][:ORIGINS_MAX]


def check_format(url: Url, format_: str) -> str:
    """Return the format's name; ApiParamError where the URL's suffix contradicts it."""
    name = format_.lower()
    if format_.upper() not in FORMATS:
        raise ApiParamError(
            f"Unable to execute API command registertemplate due to invalid value {format_} for "
            f"parameter format"
        )
    allowed = _EXTENSIONS.get(name)
    if allowed is None:
        raise ApiParamError(f"Format {format_.upper()} cannot be downloaded directly to KVM")
    path = unquote(url.path).lower()
    if not any(path.endswith(f".{ext}{packed}") for ext in allowed for packed in _COMPRESSED):
        if name == "qcow2":
            raise ApiParamError("Please specify a valid qcow2")
        raise ApiParamError(
            f"Please specify a valid URL. URL:{url.path} is an invalid for the format {name}"
        )
    return name.upper()


def check_checksum(text: str | None) -> str | None:
    """Return the checksum with its ``{ALG}``; ApiParamError for what cannot be a digest.

    CloudStack's rules (no prefix = MD5; it looks at the length, not at the digits) and one that
    it lacks: a name in another spelling (``sha256``) is understood.
    """
    if text is None or not text.strip():
        return None
    match = _CHECKSUM.fullmatch(text.strip())
    if match is None:
        raise ApiParamError("The checksum is not of the form {ALGORITHM}hexadecimal")
    given, digest = match[1] if match[1] is not None else "MD5", match[2].strip().lower()
    name = algorithm_named(given.replace("_", "-"))
    if name is None:
        raise ApiParamError(
            f"Algorithm {given} was provided but it is not one of the supported algorithms"
        )
    if len(digest) != HEX_LENGTHS[name]:
        raise ApiParamError(
            f"Checksum digest length should be {HEX_LENGTHS[name]} instead of {len(digest)}"
        )
    return f"{{{name.upper()}}}{digest}"


def headers_of(details: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the request headers in template details (``HTTP_HEADER:Name`` → value)."""
    headers = []
    for key, name, value in header_items(details):
        if not _HEADER_NAME.fullmatch(name):
            raise ApiParamError(f"{key} does not name an HTTP header")
        if len(value.encode()) > HEADER_MAX or any(c in value for c in "\r\n\x00"):
            raise ApiParamError(f"The value of {key} cannot be an HTTP header's value")
        headers.append((name, value))
    if len(headers) > HEADERS_MAX:
        raise ApiParamError(f"More than {HEADERS_MAX} HTTP headers")
    return tuple(headers)
