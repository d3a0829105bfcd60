# SPDX-License-Identifier: Apache-2.0
"""apache/cloudstack-go as far as a server notices: how it asks, and what it can decode.

No Go runs here. Requests are written, and responses are checked, as that client's public source
does it; its commands and types are in ``tests/vectors/cloudstack_go.json``.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_FACTS: Final = json.loads(
    (Path(__file__).parents[1] / "vectors" / "cloudstack_go.json").read_text()
)
COMMANDS: Final[Mapping[str, Mapping[str, Any]]] = _FACTS["commands"]
TYPES: Final[Mapping[str, Mapping[str, str]]] = _FACTS["types"]
_PLAIN: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "int": int,
    "int64": int,
    "float64": (int, float),
    "bool": bool,
}


class GoError(Exception):
    """What the client returns as its error."""


class GoClient:
    """Calls commands; every response has to decode into the client's own type."""

    def __init__(self, credentials: Mapping[str, str]) -> None:
        self._credentials = credentials

    def __call__(self, command: str, **params: Any) -> dict[str, Any]:
        """Return the decoded response: of an asynchronous command, with its job's result."""
        how = COMMANDS[command]
        body = self._request(command, params, post=how["post"])
        if how["raw"]:
            body = raw_value(body)
        mismatches = list(undecodable(how["response"], body))
        if mismatches:
            raise GoError(f"{command}: json: cannot unmarshal {mismatches}")
        jobid = body.get("jobid")
        if command == "queryAsyncJobResult" or not jobid:
            return body
        result = self._wait(str(jobid))
        if how["asyncraw"]:
            result = raw_value(result)
        mismatches = list(undecodable(how["response"], result))
        if mismatches:
            raise GoError(f"{command}, its job: json: cannot unmarshal {mismatches}")
        return {**body, **result}

    def _wait(self, jobid: str) -> Any:
        for _ in range(600):
            state = self("queryAsyncJobResult", jobid=jobid)
            if state["jobstatus"] == 1:
                return state["jobresult"]
            if state["jobstatus"] == 2:
                raise GoError(f"Undefined error: {state['jobresult']}")
        raise GoError("Timeout while waiting for async job to finish")

    def _request(self, command: str, params: Mapping[str, Any], *, post: bool) -> Any:
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=15)
        values = {name: _text(value) for name, value in params.items()} | {
            "apiKey": self._credentials["apikey"],
            "command": command,
            "response": "json",
            "signatureversion": "3",
            "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        query = "&".join(f"{name}={_escape(values[name])}" for name in sorted(values))
        secret = self._credentials["secretkey"].encode()
        mac = hmac.new(secret, query.lower().encode(), hashlib.sha1)
        signature = base64.b64encode(mac.digest()).decode()
        url = self._credentials["url"]
        if post:
            data = urllib.parse.urlencode({**values, "signature": signature}).encode()
            request = urllib.request.Request(url, data=data)
        else:
            signed = f"{query}&signature={urllib.parse.quote_plus(signature)}"
            request = urllib.request.Request(f"{url}?{signed}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return raw_value(json.load(answer))
        except urllib.error.HTTPError as exc:
            body = raw_value(json.load(exc))
            if isinstance(body.get("errorcode"), int) and isinstance(body.get("errortext"), str):
                text = f"CloudStack API error {body['errorcode']}: {body['errortext']}"
                raise GoError(text) from None
            raise


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escape(value: str) -> str:
    return urllib.parse.quote(value, safe="*~")


def raw_value(body: Any) -> Any:
    """The first value that is not a count; of a list, its first element."""
    if not isinstance(body, dict) or not body:
        raise GoError(f"Unable to extract the raw value from: {body}")
    if "count" not in body:
        return next(iter(body.values()))
    # Its maps have no order: any of the others may be the first.
    for value in (value for name, value in body.items() if name != "count"):
        if not isinstance(value, list) or not value:
            raise GoError("Unable to extract raw value")
    return next(value[0] for name, value in body.items() if name != "count")


def undecodable(type_: str, value: Any, where: str = "") -> Iterator[str]:
    """What of *value* Go's encoding/json refuses for *type_*: names match in any case, what has
    no field is skipped, null is nothing."""
    where = where or type_
    if value is None or type_ in {"interface{}", "json.RawMessage"}:
        return
    if type_.startswith("[]"):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for item in value:
            yield from undecodable(type_[2:], item, f"{where}[]")
    elif type_.startswith("map[string]"):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for name, item in value.items():
            yield from undecodable(type_.removeprefix("map[string]"), item, f"{where}.{name}")
    elif type_.startswith("*"):
        yield from undecodable(type_[1:], value, where)
    elif type_ == "UUID":  # a type of the client's own that takes a number, too
        if isinstance(value, bool) or not isinstance(value, str | int):
            yield f"{where} is no UUID: {value!r}"
    elif type_ in _PLAIN:
        if isinstance(value, bool) != (type_ == "bool") or not isinstance(value, _PLAIN[type_]):
            yield f"{where} is no {type_}: {value!r}"
    else:
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        fields = {name.lower(): (name, kind) for name, kind in TYPES[type_].items()}
        for name, item in value.items():
            if name.lower() in fields:
                known, kind = fields[name.lower()]
                yield from undecodable(kind, item, f"{where}.{known}")
