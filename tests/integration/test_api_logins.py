# SPDX-License-Identifier: Apache-2.0
"""Logins over HTTP: who gets in, who has to wait, what browsers are told, and what is noted."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from fastdl.manager.access import logins
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.web import Answer, encoded, send


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a zone."""
    async with running_zone(tmp_path / "manager") as made:
        yield made


def password_of(zone: Zone) -> str:
    """The administrator's password."""
    found: str = json.loads((zone.manager.config.state / "admin.json").read_text())["password"]
    return found


def form(name: str, password: str, **more: str) -> str:
    """A login."""
    params = {"command": "login", "username": name, "password": password, "response": "json"}
    return encoded({**params, **more}.items())


async def login(
    zone: Zone, password: str, *, name: str = "admin", source: str = "127.0.0.1", **headers: str
) -> Answer:
    """Log in from *source*."""
    return await send(
        zone.api.credentials["url"], form=form(name, password), source=source, headers=headers
    )


async def flood(zone: Zone, count: int, *, name: str = "admin", source: str) -> Counter[int]:
    """Try wrong passwords; return the statuses."""
    answers = await asyncio.gather(
        *(login(zone, f"wrong{n}", name=name, source=source) for n in range(count))
    )
    return Counter(answer.status for answer in answers)


async def test_a_login_is_a_post_with_the_password_in_its_body(zone: Zone) -> None:
    """URLs are written to logs, and links can be put anywhere."""
    url, right = zone.api.credentials["url"], form("admin", password_of(zone))
    answer = await send(url, query=right)
    assert (answer.status, answer.envelope) == (405, "loginresponse")
    assert (await send(url, query=right, method="HEAD")).status == 405
    answer = await send(url, query=right, form="")
    assert (answer.status, answer.envelope) == (431, "loginresponse")
    assert not answer.cookies
    for site in ("cross-site", "same-site"):
        answer = await send(url, form=right, headers={"Sec-Fetch-Site": site})
        assert (answer.status, answer.cookies) == (401, {})
    assert (await send(url, form=right, headers={"Sec-Fetch-Site": "same-origin"})).status == 200
    answer = await send(url, query="command=login&response=json", form=right)
    assert answer.status == 200


async def test_cookies_are_for_this_site_alone(zone: Zone) -> None:
    """No script reads them, no other site sends them; over plain HTTP they cannot be Secure."""
    answer = await login(zone, password_of(zone))
    assert set(answer.cookies) == {"JSESSIONID", "sessionkey"}
    for line in answer.cookies.values():
        assert "HttpOnly" in line
        assert "SameSite=Strict" in line
        assert "Secure" not in line


async def test_a_client_with_a_password_logs_in_for_every_command(zone: Zone) -> None:
    """As CloudStack's command line does: by a form, the key from the cookie, then a GET."""
    url = zone.api.credentials["url"]
    for _ in range(15):
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            answer = await send(url, form=form("admin", password_of(zone)), session=session)
            assert answer.status == 200, answer.body
            key = answer.cookies["sessionkey"].partition("=")[2].partition(";")[0]
            query = encoded({"command": "listZones", "response": "json", "sessionkey": key}.items())
            assert (await send(url, query=query, session=session)).content["count"] == 1


async def test_nobody_keeps_the_administrator_out(zone: Zone) -> None:
    """Failures count by address and name: not elsewhere, and not for a right password."""
    codes = await flood(zone, 60, source="127.0.0.66")
    assert set(codes) == {401, 429}
    assert codes[401] <= 12
    started = time.monotonic()
    assert (await login(zone, password_of(zone), source="127.0.0.1")).status == 200
    assert (await login(zone, "wrong", source="127.0.0.1")).status == 401
    async with asyncio.timeout(30):
        assert (await login(zone, password_of(zone), source="127.0.0.66")).status == 200
    print(f"two good logins after the flood took {time.monotonic() - started:.1f} s")
    metrics = await send(zone.api.credentials["url"].replace("/client/api", "/metrics"))
    assert 'fastdl_logins_total{outcome="succeeded"}' in metrics.body


async def test_a_flood_of_failures_leaves_few_rows_that_say_who_and_where(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator can read them, and they fill no disk; odd names forge nothing."""
    monkeypatch.setattr(logins, "SLOW_S", 0.01)
    await flood(zone, 60, source="127.0.0.66")
    await asyncio.gather(
        *(login(zone, "x", name=f"ghost{n}", source="127.0.0.67") for n in range(40))
    )
    await login(zone, "x", name="a\nb\x1b[31m" + "c" * 5000, source="127.0.0.68")
    await login(zone, password_of(zone), source="127.0.0.5")
    events = (await zone.api("listEvents", type="USER.LOGIN"))["event"]
    assert len(events) <= 65
    found = [e for e in events if e.get("address") == "127.0.0.66"]
    assert len(found) == 1
    assert (found[0]["level"], found[0]["account"], found[0]["username"]) == (
        "WARN",
        "admin",
        "admin",
    )
    assert "admin from 127.0.0.66" in found[0]["description"]
    (odd,) = [e for e in events if e.get("address") == "127.0.0.68"]
    assert odd["description"].isprintable()
    assert len(odd["description"]) < 200
    (good,) = [e for e in events if e["level"] == "INFO"]
    assert (good["username"], good["address"]) == ("admin", "127.0.0.5")


async def test_a_trusted_proxy_names_the_client(zone: Zone) -> None:
    """Only its own header is believed, and of that only what it added itself."""

    names = (f"ghost{n}" for n in range(10))  # each is told once in a minute

    async def seen(source: str, **headers: str) -> str:
        await login(zone, "x", name=next(names), source=source, **headers)
        event = (await zone.api("listEvents", type="USER.LOGIN"))["event"][0]
        return str(event["address"])

    forwarded = {"X-Forwarded-For": "192.0.2.66, 192.0.2.1, 127.0.0.3"}
    assert await seen("127.0.0.3", **forwarded) == "127.0.0.3"
    for name, value in (("cidr", "127.0.0.3/32"), ("header.verify", "true")):
        await zone.api("updateConfiguration", name=f"proxy.{name}", value=value)
    assert await seen("127.0.0.3", **forwarded) == "192.0.2.1"
    assert await seen("127.0.0.4", **forwarded) == "127.0.0.4"
    assert await seen("127.0.0.3", **{"X-Forwarded-For": "192.0.2.1, junk"}) == "127.0.0.3"
    assert await seen("127.0.0.3") == "127.0.0.3"
    v6 = {"X-Forwarded-For": "2001:db8::1"}
    assert await seen("127.0.0.3", **v6) == "2001:db8::1"
    https = {"X-Forwarded-Proto": "https"}
    answer = await login(zone, password_of(zone), source="127.0.0.3", **https)
    assert all("Secure" in line for line in answer.cookies.values())
    answer = await login(zone, password_of(zone), source="127.0.0.4", **https)
    assert not any("Secure" in line for line in answer.cookies.values())


async def test_sessions_end_with_what_they_rest_on(zone: Zone) -> None:
    """A logout, a new password, new keys, disabled, deleted: the cookie is worth nothing then."""
    url = zone.api.credentials["url"]
    id_ = (await zone.api("createUser", username="u", password="password1"))["user"]["id"]

    async def session(password: str = "password1") -> tuple[aiohttp.ClientSession, str]:
        made = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        answer = await send(url, form=form("u", password), session=made)
        assert answer.status == 200, answer.body
        return made, answer.content["sessionkey"]

    async def status(
        made: aiohttp.ClientSession, key: str, command: str = "listZones", **params: str
    ) -> int:
        text = {"command": command, "response": "json", "sessionkey": key, **params}
        return (await send(url, form=encoded(text.items()), session=made)).status

    first, second = await session(), await session()
    assert await status(*first) == 200
    assert await status(*first, "logout") == 200
    assert [await status(*first), await status(*second)] == [401, 200]
    assert await status(*second, "updateUser", id=id_, password="password2") == 431
    wrong = {"id": id_, "password": "password2", "currentpassword": "guess"}
    assert await status(*second, "updateUser", **wrong) == 431
    third = await session()
    right = {**wrong, "currentpassword": "password1"}
    assert await status(*second, "updateUser", **right) == 200
    assert [await status(*second), await status(*third)] == [200, 401]
    await zone.api("registerUserKeys", id=id_)
    assert await status(*second) == 401
    fourth = await session("password2")
    await zone.api.job(await zone.api("disableUser", id=id_))
    assert await status(*fourth) == 401
    answer = await send(url, form=form("u", "password2"))
    assert answer.status == 401
    await zone.api("enableUser", id=id_)
    fifth = await session("password2")
    assert await status(*fifth) == 200
    await zone.api("deleteUser", id=id_)
    assert await status(*fifth) == 401
    for made, _ in (first, second, third, fourth, fifth):
        await made.close()
    me = (await zone.api("listUsers", username="admin"))["user"][0]["id"]
    for command in ("deleteUser", "disableUser"):
        with pytest.raises(Exception, match="cannot be"):
            await zone.api(command, id=me)


async def test_every_answer_tells_browsers_to_trust_nothing(zone: Zone) -> None:
    """Pages, API, errors, and what is no HTTP at all: no frame, no sniffing, no versions."""
    base = zone.api.credentials["url"].removesuffix("/client/api")
    answers = [
        await send(f"{base}{path}")
        for path in (
            "/client/api",
            "/metrics",
            "/healthz",
            "/readyz",
            "/livez",
            "/events",
            "/nothing",
            "/client/api/..%2f",
        )
    ]
    answers.append(await send(f"{base}/client/api", method="DELETE"))
    answers.append(await login(zone, password_of(zone)))
    for answer in answers:
        headers = answer.headers
        assert headers["Server"] == "fastdl"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
    place = urllib.parse.urlsplit(base)
    for junk in (
        b"junk\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET /" + b"a" * (200 << 10) + b" HTTP/1.1\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(junk)
        head = (await reader.read(4096)).lower()
        writer.close()
        assert b" 400 " in head
        assert b"aiohttp" not in head
        assert b"python" not in head
