# SPDX-License-Identifier: Apache-2.0
"""How a response or an error is encoded: CloudStack's JSON and XML envelopes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from xml.sax.saxutils import escape

from fastdl import errors
from fastdl.manager.api.spec import Bare, Listing, Reply, Single
from fastdl.manager.ledger.accounts import ResourceLimitError

HTTP_CODES: Final[Mapping[type[errors.FastdlError], tuple[int, int | None]]] = {
    errors.ApiAuthError: (401, None),
    errors.ApiParamError: (431, 4350),
    errors.ApiConflictError: (409, 4300),
    ResourceLimitError: (535, 4370),
    errors.ApiLimitError: (429, 4545),
    errors.CertRejectedError: (530, 9999),
    errors.AliasConflictError: (530, 9999),
    errors.AgentLostError: (530, 4285),
    errors.Cancelled: (530, 4560),
}
"""Error class → (HTTP status and errorcode, cserrorcode)."""


_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot represent."""


def plain(reply: Reply) -> dict[str, Any]:
    """Return the body of *reply* inside its envelope. An empty list is an empty object, a page
    behind the last one the number of rows alone, as CloudStack has them."""
    match reply:
        case Listing():
            count = len(reply.items) if reply.count is None else reply.count
            if not reply.items:
                return {"count": count} if count else {}
            lists = {reply.name: reply.items, **dict([reply.also] if reply.also else [])}
            return {"count": count, **_without_nulls(lists)}
        case Single():
            return dict(_without_nulls({**reply.flat, reply.name: reply.item}))
        case Bare():
            return dict(_without_nulls(reply.fields))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def render(name: str, body: dict[str, Any], *, as_json: bool) -> str:
    """Return the complete response under the envelope *name*."""
    if as_json:
        return json.dumps({name: body}, separators=(",", ":"), ensure_ascii=False)
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{_xml(body)}</{name}>'


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_element(key, item) for key, item in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return escape(_NOT_XML.sub("?", str(value)))


def _element(key: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join(_element(key, item) for item in value)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", key)
    if not name or not (name[0].isalpha() or name[0] == "_"):
        name = f"_{name}"
    return f"<{name}>{_xml(value)}</{name}>"


def error_body(code: int, text: str, cserrorcode: int | None) -> dict[str, Any]:
    """Return the body of an error."""
    body: dict[str, Any] = {"uuidList": [], "errorcode": code}
    if cserrorcode is not None:
        body["cserrorcode"] = cserrorcode
    body["errortext"] = text
    return body


def codes_of(exc: errors.FastdlError) -> tuple[int, int | None]:
    """Return (HTTP status, cserrorcode) of an error; 530 for those without their own code."""
    return HTTP_CODES.get(type(exc), (530, 9999))
