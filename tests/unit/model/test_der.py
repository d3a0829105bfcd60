# SPDX-License-Identifier: Apache-2.0
"""Is the DER reader strict, and does what is written read back?"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.model import der
from fastdl.model.der import DerError


@given(value=st.integers(0, 2**159 - 1))
def test_integers_read_back(value: int) -> None:
    """A serial number or an iteration count survives the round trip."""
    assert der.read_one(der.integer(value)).integer() == value


@given(tail=st.lists(st.integers(0, 2**40), max_size=8), first=st.sampled_from([0, 1, 2]))
def test_object_identifiers_read_back(tail: list[int], first: int) -> None:
    """Every arc survives, whatever the number of septets it takes."""
    dotted = ".".join(map(str, (first, 39, *tail)))
    assert der.read_one(der.oid(dotted)).oid() == dotted


@given(size=st.sampled_from([0, 1, 127, 128, 255, 256, 65_535, 65_536]))
def test_lengths_read_back(size: int) -> None:
    """Short and long length forms are both written in their shortest form."""
    assert der.read_one(der.octets(b"x" * size)).content == b"x" * size


@given(data=st.binary(max_size=64))
def test_whatever_is_accepted_is_canonical(data: bytes) -> None:
    """The reader accepts exactly the bytes that the writer would have made."""
    try:
        element = der.read_one(data)
    except DerError:
        return
    assert der.encode(element.tag, element.content) == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\x30", "truncated"),
        (b"\x30\x80\x00\x00", "indefinite"),
        (b"\x04\x81\x05hello", "shortest"),
        (b"\x04\x82\x00\x85", "shortest"),
        (b"\x04\x05hell", "truncated"),
        (b"\x04\x85\x01\x00\x00\x00\x00", "absurd"),
        (b"\x04\x01xy", "after the end"),
        (b"\x1f\x81\x01\x00", "multi-byte"),
    ],
)
def test_anything_but_der_is_refused(data: bytes, why: str) -> None:
    """BER, truncation and trailing bytes could each hide an entry from one reader or another."""
    with pytest.raises(DerError, match=why):
        der.read_one(data)


@pytest.mark.parametrize("data", [b"\x02\x00", b"\x02\x01\xff", b"\x02\x02\x00\x01"])
def test_integers_are_whole_positive_and_short(data: bytes) -> None:
    """No count in a keystore is negative or padded."""
    with pytest.raises(DerError):
        der.read_one(data).integer()


def test_ber_is_made_definite_in_the_time_of_its_size() -> None:
    """Nested with something behind it, each child once meant a copy of all the bytes."""
    wide = der.encode(der.SEQUENCE, der.null() * 60_000)
    data = der.sequence(der.sequence(*[wide] * 8), der.null())
    began = time.process_time()
    assert der.definite(data) == data
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x30\x80\x04\x01x", "without an end"),
        (b"\x30\x04\x30\x80\x04\x00\x00\x00", "without an end"),
        (b"\x04\x80\x00\x00", "without an end"),
        (b"\x30\x80" * 40 + b"\0\0" * 40, "too deeply"),
        (b"\x30\x80\x00\x00\x00", "after the end"),
        (b"\x24\x03\x02\x01\x00", "tag"),
        (der.encode(der.SEQUENCE, der.null() * 70_000), "too many"),
    ],
)
def test_malformed_ber_is_refused(data: bytes, why: str) -> None:
    """An end that lies outside its parent would show one reader what another one skips."""
    with pytest.raises(DerError, match=why):
        der.definite(data)
