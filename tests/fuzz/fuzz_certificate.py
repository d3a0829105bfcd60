# SPDX-License-Identifier: Apache-2.0
"""fuzz_certificate.py - invariant: agent and manager refuse an upload as an unusable
certificate, or each can read back its own output with the same result, and describe it.
"""

from __future__ import annotations

import time

from fastdl.errors import CertRejectedError
from fastdl.manager.certificates.x509text import describe, read_upload
from fastdl.trust.certificate import read_bundle


def one_input(data: bytes) -> None:
    """Read *data* as the text of an upload."""
    _by_agent(data)
    _by_manager(data.decode("utf-8", "replace"))


def _by_agent(data: bytes) -> None:
    try:
        bundle = read_bundle(data)
    except CertRejectedError:
        return
    again = read_bundle("".join(certificate.pem() for certificate in bundle))
    assert [one.sha256 for one in again] == [one.sha256 for one in bundle] != []


def _by_manager(text: str) -> None:
    try:
        upload = read_upload(text, now=time.time())
    except CertRejectedError:
        return
    assert read_upload(upload.pem, now=time.time()) == upload
    assert set(describe(upload.pem)) >= {"subject", "issuer", "serialnum", "validity", "version"}
