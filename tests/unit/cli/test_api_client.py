# SPDX-License-Identifier: Apache-2.0
"""The API's client: what a request costs besides itself."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import pytest

from fastdl.cli import api_client
from fastdl.errors import NetError, UsageError


def _asked(url: str, *, cacert: str | None = None, use_get: bool = False) -> None:
    credentials = {"url": url, "apikey": "a", "secretkey": "s"}
    if cacert:
        credentials["cacert"] = cacert
    with pytest.raises(NetError, match="cannot be reached"):  # nobody listens at port 1
        api_client.call(credentials, "listZones", {}, use_get=use_get)


@pytest.mark.parametrize(
    ("url", "use_get", "loads"),
    [
        ("http://127.0.0.1:1/client/api", False, 0),
        ("http://127.0.0.1:1/client/api", True, 1),  # may be sent on to https
        ("https://127.0.0.1:1/client/api", False, 1),
    ],
)
def test_the_systems_certificates_are_loaded_once_and_where_they_are_needed(
    url: str, use_get: bool, loads: int
) -> None:
    api_client.trusting.cache_clear()
    with mock.patch.object(ssl, "create_default_context", wraps=ssl.create_default_context) as made:
        for _ in range(3):
            _asked(url, use_get=use_get)
    assert made.call_count == loads


def test_a_certificate_that_is_not_pem_is_said_each_time() -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="not PEM"):
            api_client.call(
                {"url": "https://127.0.0.1:1/", "apikey": "a", "secretkey": "s", "cacert": "x"},
                "listZones",
                {},
            )


class _Onward(BaseHTTPRequestHandler):
    """A proxy that wants https."""

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "https://127.0.0.1:1/client/api")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the name that is called

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Onward) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/client/api"
        server.shutdown()
        thread.join()


def test_a_post_that_is_sent_on_is_told_where_the_manager_is(proxy: str) -> None:
    """Not that the new place is not trusted: nothing was loaded that could tell."""
    with pytest.raises(UsageError, match=r"on to https://127\.0\.0\.1:1/client/api"):
        api_client.call({"url": proxy, "apikey": "a", "secretkey": "s"}, "listZones", {})
    _asked(proxy, use_get=True)  # all it asks for goes along
