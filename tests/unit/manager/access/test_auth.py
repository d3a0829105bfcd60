# SPDX-License-Identifier: Apache-2.0
"""Are signatures CloudStack's to the byte, dates read, copies known, and passwords kept?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import ApiAuthError
from fastdl.manager.access import auth

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
    [
        "2030-01-02T03:04:05+0000",
        "2030-01-02T03:04:05+00:00",
        "2030-01-02T03:04:05Z",
        "2030-01-02T03:04:05.123456Z",
        "2030-01-02T03:04:05'Z'Z",
        "2030-01-02T04:04:05+0100",
        "2030-01-02T03:04:05 0000",
    ],
)
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


def test_a_copy_is_known_however_it_is_written() -> None:
    """Blanks around a signature, another order and other letters make no new request."""
    claim = auth.claim_of(VECTOR, "AK-1")
    signature = auth.sign(VECTOR, "SK-1")
    shuffled = dict(sorted(VECTOR.items(), reverse=True))
    for copy in (
        {**VECTOR, "signature": f" {signature}\n"},
        {**shuffled, "Signature": signature},
        {**VECTOR, "command": VECTOR["command"].upper()},
    ):
        assert auth.claim_of(copy, "AK-1") == claim
    assert auth.claim_of(VECTOR, "AK-2") != claim
    assert auth.claim_of({**VECTOR, "name": "other"}, "AK-1") != claim


@pytest.mark.parametrize("name", ["details[0].HTTP_HEADER:X-A", "a_b", "ids", "_", "x" * 300])
def test_names_that_clients_send(name: str) -> None:
    """Letters, digits and what maps need."""
    assert auth.NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "a=b", "a&b", "a b", "a\n", "ä", "a%3d", "\u212a", "x" * 301])
def test_names_that_could_be_two_parameters(name: str) -> None:
    """Names are signed as they are: nothing in one may end it, or fold into another."""
    assert not auth.NAME.fullmatch(name)


def test_expiry_is_strict_to_the_second_unless_skew_is_allowed() -> None:
    """Five minutes more would be five minutes for whoever has a copy."""
    params = {"signatureversion": "3", "expires": "2030-01-02T03:04:05Z"}
    moment = 1893553445.0

    def until(now: float, skew: float) -> float | None:
        return auth.expiry_of(params, now=now, required=True, ahead_max=60, skew=skew)

    assert until(moment, 0) == moment
    assert until(moment + 30, 30) == moment + 30
    for now, skew in ((moment + 0.5, 0), (moment + 30.5, 30), (moment - 61, 0)):
        with pytest.raises(ApiAuthError):
            until(now, skew)
