# SPDX-License-Identifier: Apache-2.0
"""The API's client: what a request costs besides itself."""

from __future__ import annotations

import ssl
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
