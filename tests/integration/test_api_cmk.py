# SPDX-License-Identifier: Apache-2.0
"""cmk (apache/cloudstack-cloudmonkey), recorded: no Go runs.

With a password it logs in by POST, takes the session key from the cookie ``sessionkey``, and sends
everything by GET with that key as a parameter, but what has a password in it. With keys it signs
GET requests without a version. So says its public source (cmd/network.go).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.lab.certs import self_signed
from tests.env.fake_agent import local_pool
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with one zone and one host."""
    async with running_zone(tmp_path) as made:
        await made.agent("kvm1", pools=(local_pool("p1"),))
        yield made


class Cmk:
    """The client, with one of its two profiles."""

    def __init__(self, url: str, **profile: str) -> None:
        self._url = url
        self._profile = profile
        self._jar = http.cookiejar.CookieJar()
        self._open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._jar)).open

    def login(self) -> str:
        """The session key, of the jar or by a login."""
        for cookie in self._jar:
            if cookie.name == "sessionkey" and cookie.value:
                return cookie.value
        form = {
            "command": "login",
            "username": self._profile["username"],
            "password": self._profile["password"],
            "domain": "/",
            "response": "json",
        }
        self._open(self._url, urllib.parse.urlencode(form).encode(), timeout=30).close()
        return next(c.value for c in self._jar if c.name == "sessionkey" and c.value)

    def __call__(self, api: str, **args: str) -> dict[str, Any]:
        """The object under the name that ends in ``response``."""
        params = {"command": api, **args, "response": "json"}
        if "apikey" in self._profile:
            text = self._encoded({**params, "apiKey": self._profile["apikey"]})
            secret = self._profile["secretkey"].encode()
            mac = hmac.new(secret, text.lower().encode(), hashlib.sha1).digest()
            url = f"{self._url}?{text}&signature={urllib.parse.quote_plus(base64.b64encode(mac))}"
            return self._sent(url, None)
        params["sessionkey"] = self.login()
        if "password" in params or "userdata" in params:
            return self._sent(self._url, urllib.parse.urlencode(params).encode())
        return self._sent(f"{self._url}?{self._encoded(params)}", None)

    def _sent(self, url: str, data: bytes | None) -> dict[str, Any]:
        try:
            with self._open(url, data, timeout=60) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as exc:
            body = json.load(exc)
        found: dict[str, Any] = next(v for name, v in body.items() if name.endswith("response"))
        if "errorcode" in found:
            raise RuntimeError(
                f"(HTTP {found['errorcode']}, error code {found.get('cserrorcode')}) "
                f"{found['errortext']}"
            )
        return found

    def wait(self, started: dict[str, Any]) -> dict[str, Any]:
        """Poll an asynchronous job; a map is its result."""
        for _ in range(600):
            state = self("queryAsyncJobResult", jobid=started["jobid"])
            if state["jobstatus"] == 1:
                found: dict[str, Any] = state["jobresult"]
                assert isinstance(found, dict)
                return found
            assert state["jobstatus"] == 0, state
        raise TimeoutError("async API job query timed out")

    @staticmethod
    def _encoded(params: dict[str, str]) -> str:
        return "&".join(
            f"{name}={urllib.parse.quote(value, safe='*~')}"
            for name, value in sorted(params.items())
        )


def day(cmk: Cmk, zone: str) -> None:
    """What an operator types."""
    apis = cmk("listApis")
    assert {"createZone", "registerTemplate"} <= {api["name"] for api in apis["api"]}
    other = cmk("createZone", name="z 2*~ü")["zone"]
    cmk("updateZone", id=other["id"], allocationstate="Disabled")
    cmk("deleteZone", id=other["id"])
    cmk(
        "uploadTemplateDirectDownloadCertificate",
        hypervisor="KVM",
        name="m1",
        zoneid=zone,
        certificate=self_signed(),
    )
    (template,) = cmk(
        "registerTemplate",
        name="t",
        displaytext="t",
        url="https://mirror.example/t.qcow2",
        format="QCOW2",
        hypervisor="KVM",
        zoneid=zone,
        directdownload="true",
    )["template"]
    cmk("prepareTemplate", templateid=template["id"], zoneid=zone)
    user = cmk("createUser", username="u", password="password1", account="u")["user"]
    assert cmk.wait(cmk("disableUser", id=user["id"]))["user"]["state"] == "disabled"
    cmk("deleteUser", id=user["id"])
    assert cmk.wait(cmk("deleteTemplate", id=template["id"]))["success"] is True
    with pytest.raises(RuntimeError, match=r"HTTP 431, error code 4350"):
        cmk("listZones", id="nonsense")


async def test_a_day_with_a_password(zone: Zone) -> None:
    """One login; the cookie's key in each GET."""
    await zone.api("createUser", username="root", password="password1", role="Admin")
    cmk = Cmk(zone.api.credentials["url"], username="root", password="password1")
    await asyncio.to_thread(day, cmk, zone.id)
    logins = await zone.api("listEvents", type="USER.LOGIN")
    assert logins["count"] == 1


async def test_a_day_with_keys(zone: Zone) -> None:
    """Signed, without a version."""
    keys = {name: zone.api.credentials[name] for name in ("apikey", "secretkey")}
    await asyncio.to_thread(day, Cmk(zone.api.credentials["url"], **keys), zone.id)
