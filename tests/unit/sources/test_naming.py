# SPDX-License-Identifier: Apache-2.0
"""Which names do Content-Disposition fields and URLs propose?"""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import SinkRefusedError
from fastdl.sinks.paths import safe_name
from fastdl.sources.naming import disposition_name, url_name


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("attachment; filename=disk.img", "disk.img"),
        ('attachment; filename="my disk.img"', "my disk.img"),
        ('inline; filename="a \\"b\\".img"', 'a "b".img'),
        ("attachment; filename=\"old\"; filename*=UTF-8''n%C3%A9w.img", "néw.img"),
        ("attachment; filename*=iso-8859-1'en'%A3.img", "£.img"),
        ("attachment; FILENAME=a.img; size=5", "a.img"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\temp\\\\a.img"', "a.img"),
        ('attachment; filename="n\u00c3\u00a9.img"', "né.img"),
        ("attachment", None),
        ("attachment; filename=", None),
        ('attachment; filename="/"', None),
        ("attachment; filename*=utf-7''x", None),
        ("filename=a.img", None),
        ("attachment; filename=" + "a" * 5000, None),
    ],
)
def test_a_field_proposes(field: str, name: str | None) -> None:
    """As browsers and curl read it (RFC 6266): the last part of a path, the extended form first."""
    assert disposition_name(field) == name


@given(st.text(max_size=300))
def test_no_field_leads_out_of_the_folder(text: str) -> None:
    """Whatever comes is no path, and goes through ``safe_name`` before it is one."""
    name = disposition_name(f"attachment; filename{text}")
    if name is not None:
        assert "/" not in name
        with contextlib.suppress(SinkRefusedError):
            assert safe_name(name) == name


def test_a_url_proposes_its_last_segment() -> None:
    """Decoded, and a metalink's without its suffix."""
    assert url_name(["https://a.example/x/di%20sk.img?sig=1"]) == "di sk.img"
    assert url_name(["https://a.example/i.iso.META4"]) == "i.iso"
    assert url_name(["https://a.example/"]) is None
