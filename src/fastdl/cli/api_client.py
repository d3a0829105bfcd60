# SPDX-License-Identifier: Apache-2.0
"""A client of the manager's API: signed requests, whole lists, the outcome of async jobs."""

from __future__ import annotations

import datetime as dt
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastdl import fs
from fastdl.errors import (
    AgentLostError,
    ApiAuthError,
    ApiConflictError,
    ApiLimitError,
    ApiParamError,
    FastdlError,
    HttpProtocolError,
    HttpStatusError,
    NetError,
    SinkSpaceError,
    TrustError,
    UsageError,
)

if TYPE_CHECKING:
    import ssl

_BY_CODE: dict[int, type[FastdlError]] = {
    400: ApiParamError,
    401: ApiAuthError,
    405: ApiParamError,
    429: ApiLimitError,
    430: ApiParamError,
    431: ApiParamError,
    432: ApiParamError,
    531: ApiAuthError,
    533: SinkSpaceError,
}
"""CloudStack's errorcode (the HTTP status, too) → class. Every other one is a refusal of what
was asked as things are now: that is what most of its 530 say, of which it has no finer code."""
_BY_CS_CODE: dict[int, type[FastdlError]] = {
    4285: AgentLostError,
    4340: SinkSpaceError,
    4350: ApiParamError,
    4365: ApiAuthError,
    4545: ApiLimitError,
    4560: AgentLostError,
}
"""What cserrorcode tells of an errorcode without a class of its own."""
EXPIRES_S = 600
POLL_S = 0.5


def read_credentials(path: Path) -> dict[str, str]:
    """Return url, apikey, secretkey and, where it is there, cacert (PEM) from *path*."""
    try:
        data = json.loads(path.read_text())
        found = {name: str(data[name]) for name in ("url", "apikey", "secretkey")}
        return found | ({"cacert": str(data["cacert"])} if data.get("cacert") else {})
    except OSError as exc:
        raise UsageError(f"the credentials file {path} cannot be read: {fs.why(exc)}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise UsageError(
            f"the credentials file {path} cannot be read: it is JSON with url, apikey and secretkey"
        ) from exc


def read_cacert(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"--cacert {path} cannot be read: {fs.why(exc)}") from exc


def call(
    credentials: dict[str, str],
    command: str,
    params: dict[str, str],
    *,
    timeout_s: float = 60.0,
    use_get: bool = False,
) -> dict[str, Any]:
    """Return the content of the answer's envelope; the error's class where it is one."""
    import http.client
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode
    from urllib.request import (
        HTTPRedirectHandler,
        HTTPSHandler,
        ProxyHandler,
        Request,
        build_opener,
    )

    from fastdl.manager.access.auth import sign

    # Microseconds, because a signature works once: two equal commands within a second must
    # not have the same one.
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=EXPIRES_S)
    signed = {
        **params,
        "command": command,
        "response": "json",
        "apiKey": credentials["apikey"],
        "signatureVersion": "3",
        "expires": expires.isoformat(timespec="microseconds"),
    }
    form = urlencode({**signed, "signature": sign(signed, credentials["secretkey"])})
    url = credentials["url"]
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"the url in the credentials file is not http: {url}")
    request = Request(f"{url}?{form}") if use_get else Request(url, data=form.encode())  # noqa: S310
    # No proxy from the environment: requests carry credentials.
    # Loading the system's certificates takes longer than most requests.
    if use_get or url.startswith("https://"):
        trust = trusting(credentials.get("cacert"))
    else:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    redirects: Any = HTTPRedirectHandler()
    if not use_get:
        redirects.redirect_request = _refuse_onward
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=trust), redirects)
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return _content(response.read())
    except HTTPError as exc:
        raise _error(exc.code, exc.read()) from exc
    except (URLError, OSError, http.client.HTTPException) as exc:
        reason = exc.reason if isinstance(exc, URLError) else exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise TrustError(
                f"the manager at {url} is not trusted: {reason.verify_message}; --cacert FILE says "
                f"which certificate its own must lead to"
            ) from exc
        why = fs.why(reason) if isinstance(reason, OSError) else reason
        raise NetError(f"the manager at {url} cannot be reached: {why}") from exc


def _refuse_onward(
    request: Any, _response: Any, _code: int, _reason: str, _headers: Any, onward: str
) -> NoReturn:
    """A POST that is sent on would arrive without its parameters."""
    raise UsageError(
        f"{request.full_url} sends requests on to {onward}: "
        f"that is the url for the credentials file"
    )


@functools.lru_cache(maxsize=8)
def trusting(cacert: str | None) -> ssl.SSLContext:
    """Return how servers are verified: by *cacert* (PEM) alone, where there is one."""
    import ssl

    try:
        context = ssl.create_default_context(cadata=cacert)
    except (ssl.SSLError, ValueError) as exc:
        raise UsageError(f"the CA certificate is not PEM: {exc}") from exc
    # What is given may be the server's own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _content(body: bytes) -> dict[str, Any]:
    try:
        (content,) = json.loads(body).values()
    except (ValueError, AttributeError) as exc:
        raise HttpProtocolError("the response is not CloudStack's: is the url right?") from exc
    if not isinstance(content, dict):
        raise HttpProtocolError("the response is not CloudStack's: is the url right?")
    return content


def _error(status: int, body: bytes) -> FastdlError:
    try:
        return refusal(status, _content(body))
    except FastdlError:
        # A request that cannot be read is refused before it is known what it asked for.
        cls = _BY_CODE.get(status, HttpStatusError)
        return cls(f"the request was answered with HTTP status {status} and no reason")


def refusal(code: int, said: dict[str, Any]) -> FastdlError:
    """Return the error that an envelope's content tells of, in the server's words."""
    cs_code = said.get("cserrorcode")
    finer = _BY_CS_CODE.get(cs_code) if isinstance(cs_code, int) else None
    text = str(said.get("errortext") or f"refused with error {code}, and without a reason")
    return _BY_CODE.get(code, finer or ApiConflictError)(text)


def ended_job(credentials: dict[str, str], job: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Return the state of an async job when it has ended, well or not. Waits without limit."""
    while True:
        state = call(credentials, "queryAsyncJobResult", {"jobid": job}, timeout_s=timeout_s)
        if state.get("jobstatus") != 0:
            return state
        time.sleep(POLL_S)


def job_result(state: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a job that has ended; its refusal is raised."""
    result = state.get("jobresult", {})
    if state.get("jobstatus") != 1:
        raise refusal(int(state.get("jobresultcode", 530)), result)
    return dict(result)


class ApiClient:
    """One manager's API, called with one user's keys. Parameters that are None are left out."""

    PAGE = 500

    def __init__(self, credentials: dict[str, str], *, timeout_s: float = 60.0) -> None:
        self._credentials = credentials
        self._timeout_s = timeout_s

    def __call__(self, command: str, **params: str | None) -> dict[str, Any]:
        """Return the content of the answer's envelope; the class of a refusal is raised."""
        return self.send(command, params)

    def send(self, command: str, params: Mapping[str, str | None]) -> dict[str, Any]:
        """`__call__`, for parameters whose names Python cannot spell."""
        given = {name: value for name, value in params.items() if value is not None}
        return call(self._credentials, command, given, timeout_s=self._timeout_s)

    def rows(self, command: str, noun: str, **params: str | None) -> list[dict[str, Any]]:
        """Return the rows of a list command, under *noun* in its answers, of all pages."""
        found: list[dict[str, Any]] = []
        while True:
            page = str(len(found) // self.PAGE + 1)
            answer = self(command, page=page, pagesize=str(self.PAGE), **params)
            rows = answer.get(noun, [])
            found += rows
            if len(rows) < self.PAGE:
                return found

    def wait(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the result of the async job that *answer* names; its refusal is raised."""
        job = answer["jobid"]
        return job_result(ended_job(self._credentials, job, timeout_s=self._timeout_s))
