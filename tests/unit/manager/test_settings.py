# SPDX-License-Identifier: Apache-2.0
"""Is every setting checked before it is stored, and what is secret in it never shown?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiParamError
from fastdl.manager.settings import MASK, SETTINGS, Settings, check, shown
from fastdl.manager.vault import Vault

GOOD = {"cidrs": "10.0.0.0/8", "proxy": "http://p.example:1", "token": "x" * 20}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_setting_takes_what_could_end_a_header(name: str) -> None:
    """CR, LF and their kin, in the middle of what would be right."""
    value = GOOD.get(SETTINGS[name].kind, SETTINGS[name].default)
    assert check(name, value) == value
    for odd in ("\r\nX-Evil: 1", "\nX: 1", "\r", "\x00", "\x0b", "\x85", "\u2028", "\x7f"):
        for bad in (f"{value}{odd}x", f"{value[:1]}{odd}{value[1:]}y"):
            with pytest.raises(ApiParamError):
                check(name, bad)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default.page.size", "1_0"), ("default.page.size", "\u0661"),
        ("default.page.size", "1e2"), ("default.page.size", "9" * 4000),
        ("default.page.size", "0"), ("default.page.size", "10001"), ("default.page.size", ""),
        ("direct.download.drift.check.interval", "nan"),
        ("direct.download.drift.check.interval", "inf"),
        ("direct.download.drift.check.interval", "-1"),
        ("proxy.cidr", "10.0.0.0/33"), ("proxy.header.names", "X-Forwarded-For: evil"),
        ("proxy.header.names", ","), ("json.content.type", "application/json; charset=a b"),
        ("json.content.type", "application/json, text/html"), ("api.throttling.enabled", "yes"),
        ("direct.download.proxy", "proxy"), ("direct.download.proxy", "http://h/path"),
        ("direct.download.proxy", "http://a@b@c"), ("direct.download.proxy", "http://u:p q@h"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense(name: str, value: str) -> None:
    """Refused when they are set, not when they are used."""
    with pytest.raises(ApiParamError):
        check(name, value)


@given(st.sampled_from(sorted(SETTINGS)), st.text(max_size=50))
def test_any_text_is_taken_or_refused(name: str, value: str) -> None:
    """Nothing else happens, and what is taken is taken again."""
    try:
        taken = check(name, value)
    except ApiParamError:
        return
    assert check(name, taken) == taken


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("", ""),
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("http://u:p@proxy.example:3128", f"http://{MASK}@proxy.example:3128"),
        ("socks5h://token@[2001:db8::1]:1080", f"socks5h://{MASK}@[2001:db8::1]:1080"),
    ],
)
def test_of_a_proxy_its_place_is_seen(value: str, seen: str) -> None:
    """An operator must be able to tell which one it is."""
    assert shown("direct.download.proxy", check("direct.download.proxy", value)) == seen


def test_a_secret_is_stored_for_one_key_and_one_name() -> None:
    """A value moved to another row, or read with another key, is no value."""
    vault = Vault(b"k" * 32)
    settings = Settings(vault=vault)
    stored = settings.to_store("metrics.token", "x" * 20)
    assert "x" * 5 not in stored
    assert stored != settings.to_store("metrics.token", "x" * 20)
    assert Settings({"metrics.token": stored}, vault).text("metrics.token") == "x" * 20
    assert Settings({"metrics.token": stored}, Vault(b"o" * 32)).text("metrics.token") == ""
    assert Settings({"direct.download.proxy": stored}, vault).text("direct.download.proxy") == ""
    assert settings.to_store("default.page.size", "7") == "7"
    for broken in (stored[:-4], stored + "AAAA", "aes-256-gcm:", "aes-256-gcm:!"):
        assert Settings({"metrics.token": broken}, vault).text("metrics.token") == ""
