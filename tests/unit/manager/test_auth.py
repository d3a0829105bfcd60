# SPDX-License-Identifier: Apache-2.0
"""Are signatures CloudStack's to the byte, and are rates, sessions and passwords kept?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiAuthError, ApiLimitError
from fastdl.manager import auth

VECTOR = {
    "apiKey": "AK-1",
    "command": "uploadTemplateDirectDownloadCertificate",
    "response": "json",
    "signatureVersion": "3",
    "expires": "2030-01-02T03:04:05+0000",
    "name": "mirror ~*one",
    "hypervisor": "KVM",
    "zoneid": "11111111-2222-3333-4444-555555555555",
    "certificate": "MIIB+/=",
}


def test_the_measured_vector() -> None:
    """Computed by Java: it fixes sorting, encoding and lower-casing at once."""
    assert auth.sign(VECTOR, "SK-1") == "a/Qln3fYnQSqOQB+Yo/HV0/BwdY="
    assert auth.signature_matches(VECTOR, "a/Qln3fYnQSqOQB+Yo/HV0/BwdY=", "SK-1")


@given(st.sampled_from(sorted(VECTOR)), st.text(max_size=20))
def test_every_byte_of_a_request_is_covered(name: str, value: str) -> None:
    """A changed value is another request (letters' case apart: CloudStack folds it)."""
    changed = {**VECTOR, name: value}
    same = auth.canonical(changed) == auth.canonical(VECTOR)
    assert auth.signature_matches(changed, auth.sign(VECTOR, "SK-1"), "SK-1") is same


@pytest.mark.parametrize(
    "text",
    ["2030-01-02T03:04:05+0000", "2030-01-02T03:04:05+00:00", "2030-01-02T03:04:05Z",
     "2030-01-02T03:04:05.123456Z", "2030-01-02T03:04:05'Z'Z", "2030-01-02T04:04:05+0100",
     "2030-01-02T03:04:05 0000"],
)  # fmt: skip
def test_dates_that_clients_send(text: str) -> None:
    """All of them mean the same second."""
    found = auth.parse_date(text)
    assert found is not None
    assert int(found) == 1893553445


@given(st.text(max_size=40))
def test_any_other_date_is_none(text: str) -> None:
    """A date from a request must never raise."""
    auth.parse_date(text)


def test_passwords_and_nobody() -> None:
    """A user that does not exist takes as long and matches nothing."""
    stored = auth.hash_password("secret")
    assert auth.password_matches("secret", stored)
    assert not auth.password_matches("Secret", stored)
    assert not auth.password_matches("", auth.NO_PASSWORD)
    assert "secret" not in stored


def test_sessions_need_cookie_and_key_and_end() -> None:
    """The cookie alone proves only which browser asks."""
    sessions = auth.Sessions()
    cookie, session = sessions.open("u", now=0.0)
    assert sessions.check(cookie, session.key, now=1.0).user == "u"
    for wrong in ((cookie, None), (cookie, "x"), (None, session.key), ("x", session.key)):
        with pytest.raises(ApiAuthError):
            sessions.check(*wrong, now=1.0)
    with pytest.raises(ApiAuthError):
        sessions.check(cookie, session.key, now=2.0 + auth.SESSION_S)


def test_rates_are_per_caller_and_refill() -> None:
    """Twice the rate at once, then the rate."""
    rates = auth.Rates()
    for _ in range(20):
        rates.take("a", per_second=10, now=0.0)
    with pytest.raises(ApiLimitError):
        rates.take("a", per_second=10, now=0.0)
    rates.take("b", per_second=10, now=0.0)
    rates.take("a", per_second=10, now=0.2)


def test_quotas_are_per_account_and_start_again() -> None:
    """CloudStack counts requests of an account within an interval, not their rate."""
    quotas = auth.Quotas()
    for _ in range(3):
        quotas.take("a", most=3, interval=2, now=10.0)
    with pytest.raises(ApiLimitError, match="please retry after 1500 ms"):
        quotas.take("a", most=3, interval=2, now=10.5)
    quotas.take("b", most=3, interval=2, now=10.5)
    quotas.take("a", most=3, interval=2, now=12.0)
