# SPDX-License-Identifier: Apache-2.0
"""The origin and the paths to it are what a scenario's name says."""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections.abc import Iterator

import pytest

from benchmarks import origin
from benchmarks.origin import Origin
from benchmarks.scenarios import parse_scenario

MiB = 1 << 20
_BODY = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    if reason := origin.missing():
        pytest.skip(reason)
    files = tmp_path_factory.mktemp("files")
    (files / "image").write_bytes(_BODY)
    with origin.running(tmp_path_factory.mktemp("origin"), files) as running:
        yield running


def _get(server: Origin, url: str) -> bytes:
    context = ssl.create_default_context(cafile=str(server.cacert))
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_every_mirror_serves_the_same_bytes(server: Origin, scheme: str) -> None:
    """Three mirrors are three addresses with certificates of one authority."""
    with server.urls(parse_scenario(f"{scheme}-3mirror"), "image") as urls:
        assert len(set(urls)) == 3
        assert all(_get(server, url) == _BODY for url in urls)


def test_requests_and_their_bytes_are_counted(server: Origin) -> None:
    """The gate checks how often and how much was asked for."""
    server.forget_requests()
    _get(server, f"{server.http[0]}/image")
    [request] = server.requests()
    assert (request.status, request.body_bytes) == (200, len(_BODY))


def test_a_shared_link_carries_its_rate_and_no_more(server: Origin) -> None:
    """2 MiB over 8 MB/s take at least a quarter of a second less the queue's 20 ms."""
    with server.urls(parse_scenario("http-8MBps"), "image") as urls:
        begin = time.monotonic()
        assert _get(server, urls[0]) == _BODY
        assert time.monotonic() - begin > 0.22


def test_a_round_trip_is_paid_for_handshake_and_answer(server: Origin) -> None:
    """Connect and first answer are two round trips, however small the answer is."""
    with server.urls(parse_scenario("http-100ms"), "image") as urls:
        begin = time.monotonic()
        assert _get(server, urls[0]) == _BODY
        assert time.monotonic() - begin > 0.2


def test_a_throttled_server_holds_each_connection_back(server: Origin) -> None:
    """nginx's limit_rate: 2 MiB at 1 MiB/s take more than a second (it sends some at once)."""
    with server.urls(parse_scenario("http-1MiBpsconn"), "image") as urls:
        begin = time.monotonic()
        assert _get(server, urls[0]) == _BODY
        assert time.monotonic() - begin > 0.8
