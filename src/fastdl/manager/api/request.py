# SPDX-License-Identifier: Apache-2.0
"""The parameters of an HTTP request, and the client's address."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from fastdl.errors import ApiLimitError, ApiParamError
from fastdl.manager.access.auth import NAME
from fastdl.manager.settings import Settings
from fastdl.model.address import parse_cidrs

log = logging.getLogger(__name__)

LINE_MAX: Final = 128 << 10
"""Longest request line: a 64 KiB certificate in a GET URL, percent-encoded."""
BODY_MAX: Final = 1 << 20
BODY_S: Final = 30.0
PARAMS_MAX: Final = 256
COOKIE: Final = "JSESSIONID"
_FORM: Final = "application/x-www-form-urlencoded"

Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """The parameters as sent (the last of a repeated name), and by lower-case name."""

    given: Mapping[str, str]
    lower: Mapping[str, str]
    in_query: frozenset[str]
    """Lower-case names that the URL carries."""
    cookie: str | None
    address: str
    secure: bool
    """Whether it arrived over TLS, here or at a trusted proxy."""
    cross_site: bool
    method: str

    @property
    def command(self) -> str:
        return self.lower.get("command", "")

    @property
    def as_json(self) -> bool:
        return self.lower.get("response", "").lower() == "json"

    def check_names(self) -> None:
        """ApiParamError where a name is malformed, or could be read as two parameters."""
        for name in self.given:
            if not NAME.fullmatch(name):
                raise ApiParamError(
                    "A parameter's name has letters, digits, dots, colons, dashes, underscores and "
                    "brackets only"
                )
        if len(self.lower) != len(self.given):
            raise ApiParamError("A parameter appears in two spellings that differ only in case")


async def read_request(request: web.Request, settings: Settings) -> ApiRequest:
    """Return the parameters of *request*; ApiParamError where they cannot be read."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiParamError("A request body must not be compressed")
    query = _pairs(request.raw_path.partition("?")[2])
    pairs = query + (await _body(request) if request.method == "POST" else [])
    if len(pairs) > PARAMS_MAX:
        raise ApiParamError(f"More than {PARAMS_MAX} parameters")
    given = dict(pairs)
    if len(given) != len(pairs):
        log.warning("a parameter appears more than once; the last one is used")
    address, secure = client_of(request, settings)
    return ApiRequest(
        given=given,
        lower={key.lower(): value for key, value in given.items()},
        in_query=frozenset(key.lower() for key, _ in query),
        cookie=request.cookies.get(COOKIE),
        address=address,
        secure=secure,
        cross_site=request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"},
        method=request.method,
    )


async def _body(request: web.Request) -> Pairs:
    if not request.can_read_body:
        return []
    if request.content_type not in {_FORM, "multipart/form-data"}:
        raise ApiParamError("A request body must be a form")
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise ApiParamError("A form is in UTF-8")
    try:
        async with asyncio.timeout(BODY_S):
            if request.content_type == _FORM:
                return _pairs((await request.read()).decode().strip())
            return await _multipart(request)
    except TimeoutError:
        raise ApiLimitError("The request body took too long") from None
    except web.HTTPRequestEntityTooLarge:
        raise ApiParamError(f"The request is larger than {BODY_MAX} bytes") from None
    except (ValueError, HttpProcessingError, web.RequestPayloadError) as exc:
        raise ApiParamError("The request body cannot be read as a form") from exc


async def _multipart(request: web.Request) -> Pairs:
    pairs: Pairs = []
    left = BODY_MAX
    parts = await request.multipart()
    while (part := await parts.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise ApiParamError("The request body cannot be read as a form")
        if part.filename is not None:
            raise ApiParamError("Files cannot be uploaded here")
        if {"Content-Encoding", "Content-Transfer-Encoding"} & part.headers.keys():
            raise ApiParamError("A part of a form must not be encoded")
        if len(pairs) >= PARAMS_MAX:
            raise ApiParamError(f"More than {PARAMS_MAX} parameters")
        value = bytearray()
        while chunk := await part.read_chunk():
            value += chunk
            if len(value) > left:
                raise ApiParamError(f"The request is larger than {BODY_MAX} bytes")
        left -= len(value)
        pairs.append((part.name, value.decode()))
    return pairs


def _pairs(text: str) -> Pairs:
    """Return the pairs of a query; ApiParamError where it is not one."""
    if text.count("&") >= PARAMS_MAX:
        raise ApiParamError(f"More than {PARAMS_MAX} parameters")
    try:
        text.encode()  # bytes that are no UTF-8 arrive as surrogates
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise ApiParamError("A parameter is not valid UTF-8") from None


def client_of(request: web.Request, settings: Settings) -> tuple[str, bool]:
    """Return (the client's address, whether it came over TLS).

    Where the peer is a proxy that the settings trust, its header counts: the last address in it
    that is not such a proxy's, because the ones before it are what the client said.
    """
    peer = _parsed(request.remote or "")
    if peer is None or not settings.flag("proxy.header.verify"):
        return request.remote or "", request.secure
    trusted = parse_cidrs(settings.text("proxy.cidr"))
    if not any(peer in network for network in trusted):
        return str(peer), request.secure
    secure = request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    for header in settings.words("proxy.header.names"):
        client = peer
        for hop in reversed(",".join(request.headers.getall(header, ())).split(",")):
            address = _parsed(hop.strip())
            if address is None:
                break
            client = address
            if not any(address in network for network in trusted):
                break
        if client != peer:
            return str(client), secure
    return str(peer), secure


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
