# SPDX-License-Identifier: Apache-2.0
"""Are CloudStack's commands understood and answered in its own words?"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import UsageError
from fastdl.wire import cloudstack as cs

PACKAGE = "org.apache.cloudstack.agent.directdownload."

CAPTURED = """[{"org.apache.cloudstack.agent.directdownload.HttpsDirectDownloadCommand":{\
"url":"https://m/x.qcow2","templateId":204,"destData":{"uuid":"8a1c","path":null},\
"destPool":{"uuid":"11111111-2222-3333-4444-555555555555","name":"p1","poolType":"NetworkFilesystem",\
"host":"nfs1","path":"/export/primary","port":2049,"id":1},"checksum":"{SHA-256}ab",\
"headers":{"X-Token":"t"},"connectTimeout":5000,"soTimeout":7500,"connectionRequestTimeout":5000,\
"templateSize":2147483648,"format":"QCOW2","followRedirects":false,"contextMap":{},"wait":10800,\
"bypassHostMaintenance":false}}]"""


def _changed(**fields: Any) -> str:
    plain = json.loads(CAPTURED)
    plain[0][PACKAGE + "HttpsDirectDownloadCommand"] |= fields
    return json.dumps(plain)


def test_a_captured_download_is_read_whole() -> None:
    """The example of the contract, field by field."""
    command = cs.parse_command(CAPTURED)
    assert isinstance(command, cs.Download)
    assert (command.protocol, command.url) == ("Https", "https://m/x.qcow2")
    assert (command.template_id, command.template_uuid) == (204, "8a1c")
    assert command.pool == cs.Pool(
        uuid="11111111-2222-3333-4444-555555555555",
        type="NetworkFilesystem",
        path="/export/primary",
        host="nfs1",
        name="p1",
    )
    assert command.checksum == "{SHA-256}ab"
    assert command.headers == (("X-Token", "t"),)
    assert command.timeouts == cs.Timeouts(connect=5.0, read=7.5)
    assert (command.follow_redirects, command.wait) == (False, 10800.0)
    assert "t" not in repr(command.headers) or "X-Token" not in repr(command)


def test_a_successful_download_is_answered_as_in_the_contract() -> None:
    """Byte for byte: CloudStack's Gson reads these names and nothing else."""
    assert cs.downloaded(template_size=2147418112, install_path="53a5bace-1") == (
        '[{"org.apache.cloudstack.agent.directdownload.DirectDownloadAnswer":{'
        '"templateSize":2147418112,"installPath":"53a5bace-1","retryOnOtherHosts":false,'
        '"result":true,"contextMap":{},"wait":0,"bypassHostMaintenance":false}}]'
    )


def test_a_failure_carries_its_reason_and_whether_others_may_try() -> None:
    """Null fields are left out, as Gson does."""
    (answer,) = json.loads(cs.download_failed("no", retry_on_other_hosts=True))
    assert answer == {
        PACKAGE + "DirectDownloadAnswer": {
            "retryOnOtherHosts": True,
            "result": False,
            "details": "no",
            "contextMap": {},
            "wait": 0,
            "bypassHostMaintenance": False,
        }
    }


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        (
            "SetupDirectDownloadCertificateCommand",
            {"certificate": "PEM", "certificateName": "m1"},
            cs.SetupCertificate(name="m1", certificate="PEM"),
        ),
        (
            "RevokeDirectDownloadCertificateCommand",
            {"certificateAlias": "m1"},
            cs.RevokeCertificate(alias="m1"),
        ),
        (
            "CheckUrlCommand",
            {"url": "http://m/x", "format": "QCOW2", "connectTimeout": 1500, "socketTimeout": 0},
            cs.CheckUrl(
                url="http://m/x",
                format="QCOW2",
                timeouts=cs.Timeouts(connect=1.5),
                follow_redirects=True,
            ),
        ),
        ("PingCommand", {}, cs.Unknown(name=PACKAGE + "PingCommand")),
    ],
)
def test_the_other_commands(name: str, fields: dict[str, Any], expected: cs.Command) -> None:
    """Each of the documented classes, and one that is none of them."""
    assert cs.parse_command(json.dumps([{PACKAGE + name: fields}])) == expected


def test_what_older_releases_leave_out_has_its_old_meaning() -> None:
    """Releases without the field followed redirects; null timeouts are the engine's own."""
    plain = json.loads(CAPTURED)
    body = plain[0][PACKAGE + "HttpsDirectDownloadCommand"]
    for name in ("followRedirects", "connectTimeout", "soTimeout", "headers", "checksum", "wait"):
        del body[name]
    command = cs.parse_command(json.dumps(plain))
    assert isinstance(command, cs.Download)
    assert command.follow_redirects
    assert command.timeouts == cs.Timeouts()
    assert (command.headers, command.checksum, command.wait) == ((), None, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "[1]",
        '[{"a":{}},{"b":{}}]',
        '[{"a":{},"b":{}}]',
        '[{"a":1}]',
        "[" * 100_000,
        _changed(url=7),
        _changed(url=None),
        _changed(templateId=True),
        _changed(soTimeout=-1),
        _changed(headers={"a": 1}),
        _changed(headers={str(n): "x" for n in range(17)}),
        _changed(allowedCidrs="10.0.0.0/8"),
        _changed(destPool=[]),
        _changed(padding="x" * cs.MAX_REQUEST),
    ],
    ids=str,
)
def test_malformed_commands_are_refused_with_one_class(text: str) -> None:
    """A wrong type is named, never passed on."""
    with pytest.raises(UsageError):
        cs.parse_command(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["url", "destPool", "uuid", PACKAGE + "CheckUrlCommand", "x"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_command_or_refused(plain: Any) -> None:
    """No shape of input leads to anything but a command or the one class."""
    with contextlib.suppress(UsageError):
        cs.parse_command(json.dumps(plain))
