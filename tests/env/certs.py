# SPDX-License-Identifier: Apache-2.0
"""Which certificates, right and wrong, can a test server or client show?

Everything is made on demand and kept, so a session pays for each key once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from fastdl.lab.certs import DAY, Authority, Identity


class CertLab(Authority):
    """One root, its intermediates and every leaf a test asks for by name."""

    def leaf(self, name: str) -> Identity:
        """The identity called *name* in :data:`KINDS` (or ``ca``), made at first use."""
        if name not in self.made:
            KINDS[name](self, name)
        return self.made[name]

    def make_sha1(self, name: str) -> Identity:
        """A leaf of the root signed with SHA-1: only the command-line tool still does that."""
        leaf = self.leaf("good")
        request, out = self.folder / f"{name}.csr", self.folder / f"{name}.raw.pem"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        _openssl("req", "-new", "-key", leaf.key, "-subj", f"/CN={name}", "-out", request)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca.cert_file, "-CAkey", self.ca.key),
            *("-CAcreateserial", "-sha1", "-days", "30", "-extfile", extensions, "-out", out),
        )
        certificate = x509.load_pem_x509_certificate(out.read_bytes())
        return self.keep(name, certificate, leaf.private, ())


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=30)


def _under(
    name: str, *, sent: bool = True, ca: bool = True, path_length: int | None = None
) -> Callable[[CertLab, str], Identity]:
    """A leaf below an intermediate of its own; *sent* says whether the server shows that one."""

    def build(lab: CertLab, leaf: str) -> Identity:
        middle = lab.make(name, issuer=lab.ca, san=(), ca=ca, path_length=path_length)
        return lab.make(leaf, issuer=middle, sends=(middle,) if sent else ())

    return build


def _path_length_exceeded(lab: CertLab, leaf: str) -> Identity:
    upper = lab.make("upper", issuer=lab.ca, san=(), ca=True, path_length=0)
    lower = lab.make("lower", issuer=upper, san=(), ca=True)
    return lab.make(leaf, issuer=lower, sends=(lower, upper))


def _name_constraint(lab: CertLab, leaf: str) -> Identity:
    only = x509.NameConstraints([x509.DNSName("example.org")], None)
    middle = lab.make("narrow", issuer=lab.ca, san=(), ca=True, extensions=[(only, True)])
    san = (x509.DNSName("localhost"),)
    return lab.make(leaf, issuer=middle, san=san, sends=(middle,))


def _unknown_ca(lab: CertLab, leaf: str) -> Identity:
    other = lab.make("other-ca", issuer=None, san=(), ca=True)
    return lab.make(leaf, issuer=other)


def _san(*names: x509.GeneralName, common_name: str | None = None) -> Callable[..., Identity]:
    return lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=names, common_name=common_name)


def _long_chain(lab: CertLab, leaf: str) -> Identity:
    above = [lab.ca]
    for number in range(120):
        above.append(lab.make(f"link-{number}", issuer=above[-1], san=(), ca=True))
    return lab.make(leaf, issuer=above[-1], sends=above[:0:-1])


_CRITICAL = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\0")

KINDS: dict[str, Callable[[CertLab, str], Identity]] = {
    "good": lambda lab, leaf: lab.make(leaf, issuer=lab.ca),
    "expired": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, begins=-9 * DAY, ends=-DAY),
    "not-yet-valid": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, begins=DAY, ends=9 * DAY),
    "wrong-host": _san(x509.DNSName("mirror.example.org")),
    "cn-only": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=(), common_name="localhost"),
    "bad-wildcard": _san(x509.DNSName("*"), x509.DNSName("local*"), x509.DNSName("*.localhost")),
    "ip-in-dns-name": _san(x509.DNSName("127.0.0.1")),
    "unknown-ca": _unknown_ca,
    "with-intermediate": _under("middle"),
    "missing-intermediate": _under("unsent", sent=False),
    "intermediate-not-ca": _under("not-a-ca", ca=False),
    "path-length-exceeded": _path_length_exceeded,
    "unknown-critical-extension": lambda lab, leaf: lab.make(
        leaf, issuer=lab.ca, extensions=[(_CRITICAL, True)]
    ),
    "name-constraint": _name_constraint,
    "self-signed": lambda lab, leaf: lab.make(leaf, issuer=None),
    "self-signed-wrong-host": lambda lab, leaf: lab.make(
        leaf, issuer=None, san=(x509.DNSName("mirror.example.org"),)
    ),
    "long-chain": _long_chain,
    "rsa-1024": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, rsa_bits=1024),
    "sha-1": CertLab.make_sha1,
    "client": lambda lab, leaf: lab.make(leaf, issuer=lab.ca, san=(), client=True),
    "client-unknown-ca": lambda lab, leaf: lab.make(leaf, issuer=None, san=(), client=True),
}
"""What each identity is: name → how it is made."""
