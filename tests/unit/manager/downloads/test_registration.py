# SPDX-License-Identifier: Apache-2.0
"""Which templates may be registered, checked from the text alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiParamError
from fastdl.manager.downloads.drift import drift
from fastdl.manager.downloads.registration import (
    check_checksum,
    check_format,
    check_url,
    headers_of,
    origin_of,
)
from fastdl.wire.messages import Validators


@pytest.mark.parametrize(
    "url",
    [
        "https://m.example/a.qcow2",
        "http://10.1.2.3:8080/a.img",
        "https://[2606:4700::1]/a.qcow2",
        "HTTPS://M.example/a.qcow2?x=1",
    ],
)
def test_origins_in_public_and_private_networks_are_fine(url: str) -> None:
    """Private mirrors are common in clouds."""
    check_url(url)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.9.9.9", "localhost", "x.localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
     "[::]", "169.254.1.1", "[fe80::1]", "224.0.0.1", "[ff02::1]", "2130706433", "0x7f.1", "0177.1",
     "169.254.169.254", "[::ffff:169.254.169.254]", "[2002:7f00:1::]", "255.255.255.255"],
)  # fmt: skip
def test_addresses_that_no_origin_may_have(host: str) -> None:
    """A template must not be a way into the management network."""
    with pytest.raises(ApiParamError, match="Illegal host"):
        check_url(f"http://{host}/a.qcow2")


def test_exceptions_are_by_network_and_never_for_metadata() -> None:
    """The operator may allow a loopback mirror; nobody may allow the metadata service."""
    check_url("http://127.0.0.1/a.qcow2", allowed_cidrs=["127.0.0.0/8"])
    with pytest.raises(ApiParamError):
        check_url("http://169.254.169.254/a.qcow2", allowed_cidrs=["0.0.0.0/0"])


@given(st.text(max_size=60))
def test_arbitrary_urls_raise_one_class_only(url: str) -> None:
    """Hostile text raises ApiParamError or passes."""
    for text in (url, f"http://{url}", f"https://m.example/{url}"):
        try:
            check_format(check_url(text), "QCOW2")
        except ApiParamError:
            continue


@pytest.mark.parametrize(
    ("path", "format_", "fine"),
    [
        ("/a.qcow2", "qcow2", True),
        ("/a.img.gz", "QCOW2", True),
        ("/a.qcow2.xz", "QCOW2", True),
        ("/a.metalink", "RAW", True),
        ("/a.meta4", "QCOW2", True),
        ("/a.raw", "QCOW2", False),
        ("/a.iso", "ISO", True),
        ("/a.qcow2.exe", "QCOW2", False),
        ("/a", "VMDK", False),
        ("/a.zip", "ZIP", False),
    ],
)
def test_the_extension_table(path: str, format_: str, fine: bool) -> None:
    """CloudStack's table, with xz, zstd and meta4 added."""
    parts = check_url(f"https://m.example{path}")
    if fine:
        assert check_format(parts, format_) == format_.upper()
        return
    with pytest.raises(ApiParamError):
        check_format(parts, format_)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (None, None),
        ("  ", None),
        ("0" * 32, "{MD5}" + "0" * 32),
        ("{SHA-256}" + "AB" * 32, "{SHA-256}" + "ab" * 32),
        ("{sha256}" + "ab" * 32, "{SHA-256}" + "ab" * 32),
        ("{MD5}" + "X" * 32, "{MD5}" + "x" * 32),
    ],
)
def test_checksums_as_cloudstack_takes_them(text: str | None, stored: str | None) -> None:
    """Digits are not checked at registration: its own tests register 32 times X."""
    assert check_checksum(text) == stored


@pytest.mark.parametrize("text", ["{CRC}00", "{SHA-256}00", "{a}{b}00", "{", "xyz"])
def test_checksums_that_cannot_be_digests(text: str) -> None:
    """An unknown algorithm or a wrong length is refused at once."""
    with pytest.raises(ApiParamError):
        check_checksum(text)


def test_headers_come_from_details() -> None:
    """Only HTTP_HEADER keys are headers, and only valid names and values."""
    assert headers_of({"HTTP_HEADER:X-A": "1", "rootDiskController": "scsi"}) == (("X-A", "1"),)
    for bad in ({"HTTP_HEADER:": "1"}, {"HTTP_HEADER:a b": "1"}, {"HTTP_HEADER:A": "x\ny"}):
        with pytest.raises(ApiParamError):
            headers_of(bad)


def test_origins_are_named_without_secrets() -> None:
    """They become metrics' labels and slots' keys."""
    assert origin_of("HTTPS://u:p@M.example/x?token=1") == "https://m.example:443"
    assert origin_of("http://[2001:db8::1]:81/") == "http://[2001:db8::1]:81"
    assert origin_of("nonsense") == ""


V = Validators


@pytest.mark.parametrize(
    ("then", "now", "changed"),
    [
        (V(size=1), V(size=2), True),
        (V(size=1), V(), False),
        (V(etag='"a"'), V(etag='"b"'), True),
        (V(etag='W/"a"'), V(etag='W/"b"'), False),
        (V(size=1, etag='"a"', last_modified="x"), V(size=1, etag='"a"', last_modified="y"), False),
        (V(last_modified="x"), V(last_modified="y"), True),
    ],
)
def test_what_counts_as_drift(then: Validators, now: Validators, changed: bool) -> None:
    """What one side does not know proves nothing."""
    assert (drift(then, now) is not None) is changed


def test_digests_decide_over_validators() -> None:
    """A mirror may change its ETag without changing a byte."""
    same = {"sha-256": "AA"}
    assert (
        drift(V(etag='"a"'), V(etag='"b"'), digests_then=same, digests_now={"sha-256": "aa"})
        is None
    )
    assert drift(V(), V(), digests_then=same, digests_now={"sha-256": "bb"})


def test_an_nfs_server_has_to_be_listed() -> None:
    """A server that exports primary storage to the host shows it every tenant's disks."""
    for url in ("nfs://s.example/e/a.qcow2", "nfs://10.1.2.3/e/a.qcow2"):
        with pytest.raises(ApiParamError):
            check_url(url)
        check_url(url, nfs_servers=["10.1.2.0/24"])
    with pytest.raises(ApiParamError, match="uid and gid"):
        check_url("nfs://10.1.2.3/e/a.qcow2?uid=0", nfs_servers=["10.1.2.0/24"])
