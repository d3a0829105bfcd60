# SPDX-License-Identifier: Apache-2.0
"""Where are an image's list and a list's signature looked for?"""

from __future__ import annotations

from fastdl.model.url import Url
from fastdl.publishers.beside import lists_beside, path_seen_from, signatures_beside
from fastdl.publishers.signatures import OPENPGP, SUFFIXES


def test_lists_lie_in_the_folder_of_the_image_without_its_signed_query() -> None:
    """A token for one file opens no other, and would be told to whoever reads the log."""
    found = [str(u) for u in lists_beside(Url.parse("https://a.example/d/i%20x.img?token=1"))]
    assert found[0] == "https://a.example/d/SHA256SUMS"
    assert "https://a.example/d/i%20x.img.sha256" in found
    assert not any("token" in one or "MD5" in one for one in found)
    assert lists_beside(Url.parse("https://a.example/d/")) == ()
    assert next(u.path for u in lists_beside(Url.parse("i.img"))) == "SHA256SUMS"
    assert next(u.path for u in lists_beside(Url.parse("/i.img"))) == "/SHA256SUMS"


def test_a_signature_has_the_lists_name_and_a_suffix() -> None:
    """Ubuntu writes .gpg, Debian .sign, others .asc and .sig."""
    url = Url.parse("https://a.example/SHA256SUMS?x=1")
    found = [str(u) for u in signatures_beside(url, SUFFIXES[OPENPGP])]
    assert found[:2] == [
        "https://a.example/SHA256SUMS.gpg",
        "https://a.example/SHA256SUMS.asc",
    ]


def test_an_image_has_a_path_as_seen_from_a_list_above_it() -> None:
    """Elsewhere it has none: then its name alone decides."""
    listed = Url.parse("https://a.example/r/SHA256SUMS")
    assert path_seen_from(listed, Url.parse("https://a.example/r/24/i%2Bx.img")) == "24/i+x.img"
    assert path_seen_from(listed, Url.parse("https://a.example/r/i.img")) == "i.img"
    assert path_seen_from(listed, Url.parse("https://b.example/r/i.img")) is None
    assert path_seen_from(listed, Url.parse("https://a.example/i.img")) is None
