# SPDX-License-Identifier: Apache-2.0
"""Is a signed request what its owner signed, once, and is every refusal an envelope of its own?"""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastdl.manager.access.auth import canonical, sign
from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Kind
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.web import Answer, encoded, send, signed, signed_params, soon


@pytest.fixture
async def zone(tmp_path: Path) -> AsyncIterator[Zone]:
    """A manager with a zone."""
    async with running_zone(tmp_path / "manager") as made:
        await made.api("updateConfiguration", name="api.refused.per.second", value="1000000")
        yield made


async def post(zone: Zone, form: str | bytes, **headers: str) -> Answer:
    """Send *form* as it is."""
    return await send(zone.api.credentials["url"], form=form, headers=headers)


async def get(zone: Zone, query: str) -> Answer:
    """Send *query* as it is."""
    return await send(zone.api.credentials["url"], query=query)


def spellings(params: dict[str, str]) -> list[str]:
    """One signed request in many ways of writing it."""
    signature = params["signature"]
    rest = {name: value for name, value in params.items() if name != "signature"}
    found = [
        encoded({**rest, "signature": text}.items())
        for text in (
            signature,
            f" {signature}",
            f"{signature} ",
            f"{signature}\n",
            f"\t{signature}\r\n",
            f"\u00a0{signature}",
            f"{signature}\u2028",
            f"{signature}\x0b",
            f"{signature}\x1f",
        )
    ]
    found.append(encoded(reversed(params.items())))
    found.append(encoded({**rest, "SIGNATURE": signature}.items()))
    found.append(encoded({name.upper(): value for name, value in rest.items()}.items()))
    found.append(encoded([*params.items(), ("signature", signature)]))
    found.append(encoded([("command", "listZones"), *params.items()]))
    found.append(encoded({**params, "command": params["command"].upper()}.items()))
    every = "".join(f"%{byte:02x}" for byte in signature.encode())
    found.append(f"{encoded(rest.items())}&signature={every}")
    found.append("&" + encoded(params.items()) + "&&")
    return found


async def test_no_spelling_makes_a_copy_new(zone: Zone) -> None:
    """One signed createHostToken is one token, however often and however it is sent (A03)."""
    params = signed(zone.api.credentials, "createHostToken", zoneid=zone.id)
    codes: Counter[int] = Counter()
    for text in spellings(params):
        for answer in (await post(zone, text), await get(zone, text)):
            codes[answer.status] += 1
            assert answer.status in {200, 401, 409, 431}, (text, answer.body)
    assert codes[200] == 1
    events = (await zone.api("listEvents", type="HOST.TOKEN"))["event"]
    assert len(events) == 1


async def test_a_names_encoding_hides_no_parameter(zone: Zone) -> None:
    """``response=json&signatureversion`` as a *name* signs the same text without its meaning."""
    keys = zone.api.credentials
    params = {
        "apiKey": keys["apikey"],
        "command": "listZones",
        "response": "json",
        "signatureVersion": "3",
        "expires": soon(-3600),
    }
    signature = sign(params, keys["secretkey"])
    rest = {name: params[name] for name in ("apiKey", "command", "expires")}
    hidden = {**rest, "response": "json&signatureversion=3"}
    for name, value in (
        ("response=json&signatureversion", "3"),
        ("response%3djson&signatureversion", "3"),
        ("response=json", "3"),
        ("expires ", "x"),
        ("na\u0131ve", "x"),
        ("", "x"),
        ("a+b", "x"),
        ("K\u212a", "x"),
        ("a\x00", "x"),
        ("details[0]/x", "x"),
    ):
        trick = {**rest, name: value}
        if name == "response=json&signatureversion":
            assert canonical(trick) == canonical(params)
        answer = await post(zone, encoded({**trick, "signature": signature}.items()))
        assert answer.status == 431, name
        answer = await get(zone, encoded({**trick, "signature": signature}.items()))
        assert answer.status == 431, name
    answer = await post(zone, encoded({**hidden, "signature": signature}.items()))
    assert answer.status == 401


async def test_a_parameter_in_two_spellings_is_refused(zone: Zone) -> None:
    """Which one counts would be up to whoever carries the request."""
    params = signed_params(
        zone.api.credentials, {"command": "createZone", "name": "one", "NAME": "two"}
    )
    assert (await post(zone, encoded(params.items()))).status == 431
    assert (await zone.api("listZones"))["count"] == 1


async def test_a_refused_post_answers_under_its_commands_name(zone: Zone) -> None:
    """As a GET does: clients look for the envelope of what they asked (CloudStack's shape)."""
    keys = zone.api.credentials
    wrong = {**keys, "secretkey": "x"}
    for command in ("createZone", "listZones", "registerTemplate"):
        name = f"{command.lower()}response"
        cases = {
            "unsigned": {"command": command, "response": "json"},
            "wrong secret": signed(wrong, command),
            "nobody's key": signed({**keys, "apikey": "nobody"}, command),
            "no signature": {"command": command, "response": "json", "apiKey": keys["apikey"]},
            "expired": signed(keys, command, expires=soon(-60)),
            "session": {"command": command, "response": "json", "sessionkey": "guess"},
        }
        for what, params in cases.items():
            text = encoded(params.items())
            for answer in (await post(zone, text), await get(zone, text)):
                assert (answer.status, answer.envelope) == (401, name), what
                assert "cserrorcode" not in answer.content
                assert "unable to verify user credentials" in answer.content["errortext"]
        text = encoded({k: v for k, v in cases["unsigned"].items() if k != "response"}.items())
        assert f"<{name}>" in (await post(zone, text)).body
    for params in ({"command": "noSuch"}, {"apiKey": "x"}):
        text = encoded({**params, "response": "json"}.items())
        for answer in (await post(zone, text), await get(zone, text)):
            assert (answer.status, answer.envelope) == (401, "errorresponse")


NUMBERS = (
    "2147483648", "-2147483649", "9223372036854775807", "9223372036854775808",
    "99999999999999999999", "9" * 400, "-9" + "9" * 30, "-2", "one", "1.5", "1e9", "0x10", "\u0661",
    "1_0", " 1", "1 ", "+", "-", "NaN", "1\x00",
)  # fmt: skip


async def test_every_whole_number_is_refused_where_it_makes_no_sense(zone: Zone) -> None:
    """Too large, negative, no number: 431 for each parameter of each command, never 500."""
    found = 0
    filler = {
        "id": zone.id,
        "zoneid": zone.id,
        "templateid": zone.id,
        "templatefilter": "self",
        "name": "n",
        "format": "QCOW2",
        "hypervisor": "KVM",
        "directdownload": "true",
        "url": "https://m.example/t.qcow2",
    }
    for command in COMMANDS.values():
        for param in command.params:
            if param.kind not in {Kind.INTEGER, Kind.NUMBER}:
                continue
            found += 1
            base = {k: v for k, v in filler.items() if k in command.by_name and k != param.name}
            for one, other in (("page", "pagesize"), ("pagesize", "page")):
                if param.name == one:
                    base[other] = "1"
            for number in NUMBERS:
                answer = await post(
                    zone,
                    encoded(
                        signed(
                            zone.api.credentials, command.name, **base, **{param.name: number}
                        ).items()
                    ),
                )
                assert answer.status == 431, (command.name, param.name, number, answer.body)
    assert found > 20
    last = await zone.api("listZones", page=2**31 - 1, pagesize=500)
    assert last == {} or last.get("zone", []) == []
    for page in ("0", "-1"):
        answer = await post(
            zone,
            encoded(signed(zone.api.credentials, "listZones", page=page, pagesize="5").items()),
        )
        assert answer.status == 431
    for alone in ("page", "pagesize"):
        params = signed(zone.api.credentials, "listZones", **{alone: "1"})
        assert (await post(zone, encoded(params.items()))).status == 431
    assert (await zone.api("listZones", pagesize=-1))["count"] == 1


async def test_whatever_is_sent_is_answered_in_an_envelope(zone: Zone) -> None:
    """Odd bytes, charsets and forms are refused by a sentence, not by a crash."""
    good = encoded(signed(zone.api.credentials, "listZones").items())
    multipart = 'multipart/form-data; boundary="x"'

    def part(head: str, body: str = "json") -> bytes:
        return f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n--x--\r\n".encode()

    cases: list[tuple[bytes, str]] = [
        (b"command=listZones&response=json", "application/x-www-form-urlencoded; charset=bogus"),
        (b"command=listZones&response=json", "application/x-www-form-urlencoded; charset=utf-7"),
        (b"command=listZones&name=%ff&response=json", "application/x-www-form-urlencoded"),
        (b"command=listZones&name=\xff&response=json", "application/x-www-form-urlencoded"),
        (b"&a" * 400_000, "application/x-www-form-urlencoded"),
        (b"{}", "application/json"),
        (b"command=listZones", "text/plain"),
        (b"x", "multipart/form-data"),
        (b"--x\r\n\r\n", multipart),
        (part('name="a"; filename="b"'), multipart),
        (part('name="a"\r\nContent-Encoding: gzip'), multipart),
        (part('name="a"\r\nContent-Transfer-Encoding: base64'), multipart),
        (part("file"), multipart),
        (part('name="a"', "x" * (2 << 20)), multipart),
        (part('name="a"\r\nContent-Type: multipart/mixed; boundary=y'), multipart),
    ]
    for body, kind in cases:
        answer = await send(
            zone.api.credentials["url"],
            query="response=json&command=listZones",
            form=body,
            headers={"Content-Type": kind},
        )
        assert answer.status == 431, (kind, body[:80], answer.body)
        assert answer.envelope == "listzonesresponse"
    raw = urllib.parse.urlsplit(zone.api.credentials["url"])
    for target in (b"/client/api?name=\xff&response=json", b"/client/api?na%00me=1&response=json"):
        reader, writer = await asyncio.open_connection(raw.hostname, raw.port)
        writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] in {b"400", b"431"}, head
        assert json.loads(body) if head.split()[1] == b"431" else True
    assert (await post(zone, good)).status == 200
    form = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in signed(zone.api.credentials, "listZones").items()
    )
    answer = await send(
        zone.api.credentials["url"], form=form + b"--x--\r\n", headers={"Content-Type": multipart}
    )
    assert answer.status == 200


async def test_invented_keys_are_limited_and_real_ones_are_not(zone: Zone) -> None:
    """Who sends the administrator's key without the secret uses nothing of its rate up (A09)."""
    keys = zone.api.credentials
    for name, value in (("api.refused.per.second", "5"), ("api.requests.per.second", "50")):
        await zone.api("updateConfiguration", name=name, value=value)
    forged = [
        signed({**keys, "secretkey": "x"}, "listZones"),
        signed({"apikey": "invented", "secretkey": "x"}, "listZones"),
        signed({"apikey": "x" * 5000, "secretkey": "x"}, "listZones"),
        signed(keys, "listZones", expires=soon(-60)),
        {"command": "listZones", "response": "json", "sessionkey": "guess"},
    ]
    for params in forged:
        answers = await asyncio.gather(*(post(zone, encoded(params.items())) for _ in range(60)))
        codes = Counter(answer.status for answer in answers)
        assert set(codes) == {401, 429} or set(codes) == {429}, codes
        answer = await post(zone, encoded(signed(keys, "listZones").items()))
        assert answer.status == 200, answer.body
    answers = await asyncio.gather(
        *(
            send(keys["url"], form=encoded(signed(keys, "listZones").items()), source="127.0.0.9")
            for _ in range(20)
        )
    )
    assert {answer.status for answer in answers} == {200}
