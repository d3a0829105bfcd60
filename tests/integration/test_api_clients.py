# SPDX-License-Identifier: Apache-2.0
"""Do CloudStack's clients find what they expect, and hostile requests nothing at all?"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cs import CloudStack, CloudStackApiException
from libcloud.common.types import InvalidCredsError
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

from fastdl.errors import ApiAuthError, ApiConflictError, ApiLimitError, ApiParamError
from fastdl.lab.certs import self_signed
from fastdl.manager.access.auth import sign
from tests.env.fake_agent import local_pool
from tests.env.manager import Client, Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path, database: str | None) -> AsyncIterator[Zone]:
    """A manager with one zone and one host, on each database."""
    async with running_zone(tmp_path / "manager", database=database) as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


def cs_client(zone: Zone, **options: Any) -> CloudStack:
    """The client ``cs``, as its users configure it."""
    keys = zone.api.credentials
    return CloudStack(
        endpoint=keys["url"], key=keys["apikey"], secret=keys["secretkey"], timeout=30, **options
    )


async def test_cs_drives_certificates_and_templates(zone: Zone) -> None:
    """Signature version 3 by GET, the certificate in the URL, async jobs, paging."""
    cs = cs_client(zone)

    def drive() -> None:
        cert = cs.uploadTemplateDirectDownloadCertificate(
            hypervisor="KVM", name="m1", zoneid=zone.id, certificate=self_signed()
        )["uploadtemplatedirectdownloadcertificate"]
        assert cert["hostsmap"][0]["status"] == "UPLOADED"
        listed = cs.listTemplateDirectDownloadCertificates(listhosts=True)
        assert listed["directdownloadcertificate"][0]["id"] == cert["id"]
        template = cs.registerTemplate(
            name="t ~*ü&=+",
            displaytext="x",
            url="https://mirror.example/t.qcow2",
            format="QCOW2",
            hypervisor="KVM",
            zoneid=zone.id,
            directdownload=True,
            checksum="{SHA-256}" + "AB" * 32,
            **{"details[0].HTTP_HEADER:X-Token": "secret"},
        )["template"][0]
        assert template["name"] == "t ~*ü&=+"
        assert template["checksum"] == "ab" * 32
        assert template["details"] == {"HTTP_HEADER:X-Token": "********"}
        result = cs.prepareTemplate(zoneid=zone.id, templateid=template["id"], fetch_result=True)
        assert result["template"]["id"] == template["id"]
        assert cs.listApis(name="listHosts")["api"][0]["isasync"] is False
        hosts = cs.listHosts(fetch_list=True)
        assert [h["name"] for h in hosts] == ["kvm1"]
        with pytest.raises(CloudStackApiException) as refused:
            cs.listZones(id="nonsense")
        assert refused.value.error["errorcode"] == 431
        assert refused.value.error["cserrorcode"] == 4350

    await asyncio.to_thread(drive)


async def test_cs_by_post(zone: Zone) -> None:
    """The same signature, in a form."""
    cs = cs_client(zone, method="post")
    answer = await asyncio.to_thread(
        cs.uploadTemplateDirectDownloadCertificate,
        hypervisor="KVM",
        name="m1",
        zoneid=zone.id,
        certificate=self_signed(),
    )
    assert answer["uploadtemplatedirectdownloadcertificate"]["alias"] == "m1"


async def test_libcloud_finds_images_and_locations(zone: Zone) -> None:
    """libcloud signs without a version; CloudStack accepts that, and so do we by default."""
    await zone.template("u24")
    url = urllib.parse.urlsplit(zone.api.credentials["url"])

    def driver(secret: str) -> Any:
        return get_driver(Provider.CLOUDSTACK)(
            zone.api.credentials["apikey"],
            secret,
            secure=False,
            host=url.hostname,
            port=url.port,
            path="/client/api",
        )

    good = driver(zone.api.credentials["secretkey"])
    (image,) = await asyncio.to_thread(good.list_images)
    assert image.name == "u24"
    assert image.extra["hypervisor"] == "KVM"
    (location,) = await asyncio.to_thread(good.list_locations)
    assert location.id == zone.id
    assert await asyncio.to_thread(good.list_nodes) == []
    with pytest.raises(InvalidCredsError):
        await asyncio.to_thread(driver("wrong").list_images)
    await zone.api("updateConfiguration", name="api.signature.expiry.required", value="true")
    with pytest.raises(InvalidCredsError):
        await asyncio.to_thread(good.list_images)


def request(zone: Zone, params: dict[str, str], **options: Any) -> tuple[int, str]:
    """Send exactly these parameters; return (status, body)."""
    data = options.pop("data", None)
    query = urllib.parse.urlencode(params)
    url = f"{zone.api.credentials['url']}?{query}"
    try:
        ask = urllib.request.Request(url, data=data, **options)
        with urllib.request.urlopen(ask, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def signed(zone: Zone, **params: str) -> dict[str, str]:
    """*params* with key and signature."""
    full = {"response": "json", "apiKey": zone.api.credentials["apikey"], **params}
    return {**full, "signature": sign(full, zone.api.credentials["secretkey"])}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"signature": "bm8="}, 401),
        ({"signature": ""}, 401),
        ({"apiKey": "nobody"}, 401),
        ({"command": "listHosts"}, 401),
        ({"pagesize": "1"}, 401),
        ({"command": "noSuchCommand"}, 401),
    ],
)
async def test_a_changed_request_is_not_the_signed_one(
    zone: Zone, change: dict[str, str], status: int
) -> None:
    """Any byte that the signature does not cover would be the attacker's (A01)."""
    params = {**signed(zone, command="listZones"), **change}
    code, body = await asyncio.to_thread(request, zone, params)
    assert code == status
    assert "unable to verify user credentials" in body
    assert "cserrorcode" not in body


async def test_signed_unknown_command_and_no_command(zone: Zone) -> None:
    """The envelope is literally errorresponse then."""
    code, body = await asyncio.to_thread(request, zone, signed(zone, command="noSuch"))
    assert (code, list(json.loads(body))) == (401, ["errorresponse"])
    code, body = await asyncio.to_thread(request, zone, {})
    assert code == 432
    assert "Invalid request, no command sent" in body


async def test_names_in_any_case_and_double_encoding(zone: Zone) -> None:
    """Names match in any case; a value is decoded exactly once. What a command has no parameter
    for is ignored, but not where it could have been a filter."""
    code, body = await asyncio.to_thread(
        request, zone, signed(zone, command="LISTZONES", NAME="z1", _="1")
    )
    assert (code, json.loads(body)["listzonesresponse"]["count"]) == (200, 1)
    code, body = await asyncio.to_thread(
        request, zone, signed(zone, command="listZones", name="z%31")
    )
    assert (code, json.loads(body)["listzonesresponse"]) == (200, {})
    code, _ = await asyncio.to_thread(
        request, zone, signed(zone, command="createZone", name="z2", Junk="1")
    )
    assert code == 200
    code, _ = await asyncio.to_thread(request, zone, signed(zone, command="listZones", Junk="1"))
    assert code == 431


@pytest.mark.parametrize(
    ("expires", "status"),
    [
        ("2020-01-02T03:04:05+0000", 401),
        ("2999-01-02T03:04:05+0000", 401),
        ("tomorrow", 401),
        ("", 401),
        (None, 401),
        ("soon+0000", 200),
        ("soon+00:00", 200),
        ("soonZ", 200),
        ("soon.123456+00:00", 200),
    ],
)
async def test_expiry_forms(zone: Zone, expires: str | None, status: int) -> None:
    """A version 3 signature expires; its date comes in several spellings (A02)."""

    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S")
    params = {"command": "listZones", "signatureVersion": "3"}
    if expires is not None:
        params["expires"] = expires.replace("soon", soon)
    code, _ = await asyncio.to_thread(request, zone, signed(zone, **params))
    assert code == status


async def test_a_signature_expires_to_the_second_unless_skew_is_allowed(zone: Zone) -> None:
    """Whoever has a copy may use it no longer than its owner meant."""

    async def ask(seconds: float) -> int:
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        stamp = moment.isoformat(timespec="microseconds")
        params = signed(zone, command="listZones", signatureVersion="3", expires=stamp)
        return (await asyncio.to_thread(request, zone, params))[0]

    assert [await ask(seconds) for seconds in (-0.01, -240, 30)] == [401, 401, 200]
    await zone.api("updateConfiguration", name="api.signature.expiry.skew", value="300")
    assert [await ask(seconds) for seconds in (-240, -301, 30)] == [200, 401, 200]


async def test_replayed_change_takes_effect_once(zone: Zone) -> None:
    """A hundred copies of one signed call: one effect (A03)."""

    stamp = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    params = signed(
        zone, command="createHostToken", zoneid=zone.id, signatureVersion="3", expires=stamp
    )
    answers = await asyncio.gather(*(asyncio.to_thread(request, zone, params) for _ in range(100)))
    codes = [code for code, _ in answers]
    assert codes.count(200) == 1
    assert set(codes) <= {200, 401, 409, 429}


async def test_long_get_line_and_oversized_requests(zone: Zone) -> None:
    """A 64 KiB certificate fits into a GET; ten megabytes fit nowhere (A04)."""
    long = {"certificate": "A" * 60_000, "name": "m", "hypervisor": "KVM", "zoneid": zone.id}
    params = signed(zone, command="uploadTemplateDirectDownloadCertificate", **long)
    code, body = await asyncio.to_thread(request, zone, params)
    assert code == 530
    assert "Cannot parse the certificate" in body
    with pytest.raises(ApiParamError):
        await zone.api("createZone", name="x" * (2 << 20))
    with pytest.raises(ApiParamError):
        await zone.api("createZone", name="x" * 256)
    bomb = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    code, body = await asyncio.to_thread(
        request, zone, {"response": "json"}, data=b"\x1f\x8b" + b"0" * 100, headers=bomb
    )
    assert code in {400, 431}


@pytest.mark.parametrize(
    "name",
    [
        "'; DROP TABLE zone; --",
        "<script>alert(1)</script>",
        "a\nINFO forged log line",
        "{{7*7}}",
        "\u202egnp.exe",
        "%s%n%x",
        "../../etc/passwd",
    ],
)
async def test_hostile_names_are_data(zone: Zone, name: str) -> None:
    """They come back as they went in, and nothing else happens (A07)."""
    answer = await zone.api("createZone", name=name)
    assert answer["zone"]["name"] == name.strip()
    listed = await zone.api("listZones", name=name.strip())
    assert listed["count"] == 1
    with pytest.raises(ApiConflictError):
        await zone.api("createZone", name=name)
    with pytest.raises(ApiParamError):
        await zone.api("createZone", name=name + "\x00")


async def test_flood_of_one_key_is_its_own_problem(zone: Zone) -> None:
    """429 for the key that floods, before its signature costs anything (A09)."""
    await zone.api("updateConfiguration", name="api.requests.per.second", value="5")
    other = (await zone.api("createUser", username="u", password="password1"))["user"]
    keys = (await zone.api("registerUserKeys", id=other["id"]))["userkeys"]
    outcomes = await asyncio.gather(
        *(zone.api("listZones") for _ in range(60)), return_exceptions=True
    )
    assert any(isinstance(o, ApiLimitError) for o in outcomes)

    calm = Client({**zone.api.credentials, **keys})
    assert (await calm("listZones"))["count"] == 1


async def test_xml_is_the_default_answer_as_in_cloudstack(zone: Zone) -> None:
    """Anything but response=json is XML."""
    full = {"command": "listZones", "apiKey": zone.api.credentials["apikey"]}
    full["signature"] = sign(full, zone.api.credentials["secretkey"])
    code, body = await asyncio.to_thread(request, zone, full)
    assert code == 200
    assert body.startswith(
        '<?xml version="1.0" encoding="UTF-8"?><listzonesresponse><count>1</count>'
    )


async def test_disabled_or_rekeyed_users_are_locked_out(zone: Zone) -> None:
    """New keys end the old ones."""
    user = (await zone.api("createUser", username="u", password="password1"))["user"]
    keys = (await zone.api("registerUserKeys", id=user["id"]))["userkeys"]

    client = Client({**zone.api.credentials, **keys})
    assert (await client("listZones"))["count"] == 1
    await zone.api("registerUserKeys", id=user["id"])
    with pytest.raises(ApiAuthError):
        await client("listZones")


REFUSED = [
    ({"directdownload": "false"}, "so directdownload=false is impossible"),
    ({"hypervisor": "VMware"}, "Parameter directdownload is only allowed for KVM"),
    ({"url": "https://m.example/t.iso"}, "Please specify a valid qcow2"),
    ({"url": "ftp://m.example/t.qcow2"}, "Unsupported scheme for url"),
    ({"url": "file:///etc/passwd"}, "File:// type urls are currently unsupported"),
    ({"url": "http://127.0.0.1/t.qcow2"}, "Illegal host specified in url"),
    ({"url": "http://[::1]/t.qcow2"}, "Illegal host specified in url"),
    ({"url": "http://169.254.169.254/t.qcow2"}, "Illegal host specified in url"),
    ({"url": "http://0x7f000001/t.qcow2"}, "Illegal host specified in url"),
    ({"url": "http://u:p@m.example/t.qcow2"}, "Credentials in the URL"),
    ({"checksum": "{MD4}" + "0" * 32}, "Algorithm MD4 was provided but it is not one"),
    ({"checksum": "{SHA-256}" + "0" * 32}, "Checksum digest length should be 64 instead of 32"),
    ({"zoneids": "-1"}, "Both zoneid and zoneids cannot be specified at the same time"),
    ({"zoneid": ""}, "Either zoneid or zoneids is required. Both cannot be null."),
    ({"zoneid": "", "zoneids": "-1,x"}, "cannot combine all zones"),
    ({"name": ""}, "missing parameter name"),
    ({"format": "PNG"}, "invalid value PNG for parameter format"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=lambda v: str(v)[:40])
async def test_registrations_are_refused_in_cloudstacks_words(
    zone: Zone, change: dict[str, str], text: str
) -> None:
    """Scripts and people know these texts."""

    with pytest.raises(ApiParamError, match=re.escape(text)):
        await zone.template(**change)


async def test_header_injection_is_refused(zone: Zone) -> None:
    """A header's value must not start another header."""
    params = {
        "name": "t",
        "url": "https://m.example/t.qcow2",
        "format": "QCOW2",
        "hypervisor": "KVM",
        "zoneid": zone.id,
        "directdownload": "true",
        "details[0].HTTP_HEADER:X": "a\r\nHost: evil",
    }
    with pytest.raises(ApiParamError, match="cannot be an HTTP header's value"):
        await zone.api.send("registerTemplate", params)
