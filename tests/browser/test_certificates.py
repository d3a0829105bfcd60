# SPDX-License-Identifier: Apache-2.0
"""The life of a certificate in the page, judged by the keystore of a real host."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from fastdl.lab.certs import self_signed
from tests.browser.conftest import Opened
from tests.env.browser import Tab
from tests.env.certs import CertLab
from tests.env.process import eventually
from tests.env.site import Site

KEY = "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----"

pytestmark = pytest.mark.asyncio(loop_scope="session")


def fingerprint(pem: str) -> str:
    """As the page writes it."""
    read = x509.load_pem_x509_certificate(pem.encode())
    return read.fingerprint(hashes.SHA256()).hex(":").upper()


async def held(site: Site, count: int) -> None:
    """Wait until the host reports so many certificates in its keystore."""

    async def so_many() -> bool:
        return [row["certificates"] for row in await site.hosts("Up")] == [count]

    await eventually(so_many, within=20)


async def press(shown: Tab, name: str, confirm: str = "") -> None:
    """Press a button, and the one of the dialog that asks."""
    await shown.page.get_by_role("button", name=name, exact=True).click()
    if confirm:
        dialog = shown.page.get_by_role("dialog")
        await dialog.get_by_role("button", name=confirm, exact=True).click()


async def test_a_certificate_from_upload_to_delete(opened: Opened, site: Site) -> None:
    """Upload, revoke, push again, replace, delete: the matrix says what the keystore holds."""
    first, second = self_signed("one.example", days=300), self_signed("two.example", days=10)
    async with opened("upload") as shown:
        page = shown.page
        await shown.heading("Upload a certificate")
        await page.get_by_label("Name").fill("life")
        await page.get_by_role("textbox", name="Certificate (required)").fill(first)
        for text in ("CN=one.example, O=Org", "(signed by itself)", fingerprint(first)):
            await page.get_by_text(text).first.wait_for()
        assert not (await site.api("listTemplateDirectDownloadCertificates")).get(
            "directdownloadcertificate"
        ), "nothing is sent before"
        await press(shown, "Upload")
        await page.get_by_text("UPLOADED", exact=True).wait_for()
        await held(site, 1)

        await page.get_by_role("link", name="All certificates").click()
        await shown.heading("Certificates")
        await cell(page, "present")
        await press(shown, "Revoke life", "Revoke")
        await cell(page, "revoked")
        await held(site, 0)

        await page.get_by_role("button", name="life on kvm1: revoked").click()
        await press(shown, "Push to this host")
        await page.get_by_role("dialog").get_by_text("kvm1: present").wait_for()
        await press(shown, "Close")
        await cell(page, "present")
        await held(site, 1)

        await page.get_by_role("button", name="Replace life").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("textbox", name="Certificate (required)").fill(second)
        await dialog.get_by_text(fingerprint(second)).wait_for()
        await dialog.get_by_role("button", name="Replace", exact=True).click()
        await page.get_by_role("heading", name="life was replaced").wait_for()
        await press(shown, "Close")
        await page.get_by_text(re.compile("1 certificate expires within 30 days")).wait_for()

        await press(shown, "Delete life", "Delete")
        await page.get_by_text("No certificates", exact=True).wait_for()
        await held(site, 0)


async def cell(page: Any, word: str) -> None:
    await page.get_by_role("button", name=f"life on kvm1: {word}").wait_for()


async def test_what_a_certificate_says_is_what_cryptography_reads(
    opened: Opened, certs: CertLab
) -> None:
    """PEM, base64, a bundle and PKCS#7 alike; keys and rubbish are told, and nothing is sent."""
    ca, leaf = certs.ca.certificate, certs.leaf("good").certificate
    pem, base64 = serialization.Encoding.PEM, ca.public_bytes(serialization.Encoding.PEM).decode()
    bare = "".join(base64.splitlines()[1:-1])
    both = pkcs7.serialize_certificates([ca, leaf], pem).decode()
    async with opened("upload") as shown:
        await shown.heading("Upload a certificate")
        found = await shown.page.evaluate(
            "async given => { const { read } = await import('./static/x509.js');"
            " return Promise.all(given.map(async one => {"
            " try { return await read(one); } catch (error) { return error.message; } })); }",
            [base64, bare, both, base64 + KEY, "rubbish!", bare[:200], ""],
        )
    for seen in (found[0], found[1], [one for one in found[2] if one["ca"]]):
        (one,) = seen
        assert one["fingerprint"] == ca.fingerprint(hashes.SHA256()).hex(":").upper()
        assert one["notAfter"].timestamp() == ca.not_valid_after_utc.timestamp()
        assert one["notBefore"].timestamp() == ca.not_valid_before_utc.timestamp()
        assert int(one["serial"].replace(":", ""), 16) == ca.serial_number
        for part in ca.subject.rfc4514_string().split(","):
            assert part in one["subject"]
        assert one["ca"] is True
    alt = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (server,) = [one for one in found[2] if not one["ca"]]
    assert set(alt.get_values_for_type(x509.DNSName)) <= set(server["names"])
    assert "private key" in found[3]
    assert all(isinstance(text, str) for text in found[4:])
