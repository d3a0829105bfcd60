# SPDX-License-Identifier: Apache-2.0
"""Can a redirect, a metalink or a Link field lead the host where nobody typed? (H22, M09)

In a network namespace whose loopback carries public, private and metadata addresses; a
second server takes every address there and must never see a connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.env.command import Outcome, run_fastdl
from tests.env.faults import Rule, When
from tests.env.netns import Namespace, network_namespace
from tests.env.origin import FaultOrigin, Resource, pseudo_random

PUBLIC, PUBLIC_TOO, PRIVATE = "8.8.4.4", "9.9.9.10", "10.77.0.1"
METADATA, LINK_LOCAL = "169.254.169.254", "169.254.7.7"
ADDRESSES = (PUBLIC, PUBLIC_TOO, PRIVATE, METADATA, LINK_LOCAL)
HOSTS = {"mirror.test": "127.0.0.1", "inside.test": PRIVATE, "outside.test": PUBLIC_TOO}
IMAGE = pseudo_random(21, 700_001)

FORBIDDEN_FROM_PUBLIC = {
    "loopback": "127.0.0.1",
    "loopback-elsewhere": "127.9.8.7",
    "private": PRIVATE,
    "metadata": METADATA,
    "link-local": LINK_LOCAL,
    "unspecified": "0.0.0.0",
    "loopback-6": "[::1]",
    "mapped-loopback": "[::ffff:127.0.0.1]",
    "mapped-metadata": "[::ffff:a9fe:a9fe]",
    "unspecified-6": "[::]",
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "octal": "0177.0.0.1",
    "short": "127.1",
    "localhost": "localhost",
    "a-name-of-loopback": "mirror.test",
    "a-name-of-private": "inside.test",
}


@dataclass(frozen=True, slots=True)
class Net:
    """The namespace, the server that was typed, and the one that must not be reached."""

    space: Namespace
    typed: FaultOrigin
    other: FaultOrigin
    folder: Path

    def get(self, url: str, *words: str) -> Outcome:
        command = ["get", url, "-o", str(self.folder / "pool" / "image.img"), "--json"]
        command += ["--progress", "none", "--retry", "1", "--connect-timeout", "2", *words]
        home = self.folder / "home"
        return run_fastdl(command, home=home, prefix=self.space.prefix, timeout=30)

    def url(self, host: str, path: str = "/image.raw") -> str:
        """*path* at *host* on the port of the server that takes every address."""
        return f"http://{host}:{self.other.port}{path}"

    def check_refused(self, outcome: Outcome) -> None:
        """POLICY, nothing written, and not even a connection."""
        assert (outcome.code, outcome.classes) == (15, ["POLICY"]), outcome
        assert self.other.connections == 0
        assert list((self.folder / "pool").iterdir()) == []

    def check_fetched(self, outcome: Outcome) -> None:
        """The image is there and right."""
        assert outcome.code == 0, outcome
        assert (self.folder / "pool" / "image.img").read_bytes() == IMAGE


@pytest.fixture(scope="module")
def space() -> Iterator[Namespace]:
    """One namespace for the module."""
    with network_namespace([f"{a}/32" for a in ADDRESSES], hosts=HOSTS) as made:
        yield made


@pytest.fixture
def net(space: Namespace, tmp_path: Path) -> Iterator[Net]:
    """Two fresh servers: one on the public address, one on every address."""
    (tmp_path / "pool").mkdir()
    with (
        FaultOrigin(
            {"/image.raw": Resource.of(IMAGE)}, name=PUBLIC, listener=space.listen(PUBLIC)
        ) as typed,
        FaultOrigin({"/image.raw": Resource.of(IMAGE)}, listener=space.listen("::")) as other,
    ):
        yield Net(space, typed, other, tmp_path)


def metalink(*urls: str) -> Resource:
    """A metalink that names *urls* as mirrors of the image."""
    document = (
        "<metalink xmlns='urn:ietf:params:xml:ns:metalink'><file name='x'>"
        f"<size>{len(IMAGE)}</size>"
        + "".join(f"<url>{url}</url>" for url in urls)
        + "</file></metalink>"
    )
    return Resource.of(document.encode(), content_type="application/metalink4+xml")


@pytest.mark.parametrize("where", FORBIDDEN_FROM_PUBLIC)
def test_a_redirect_from_a_public_address_stays_outside(net: Net, where: str) -> None:
    """However the address is spelled: judged is where the connection would go."""
    to = net.url(FORBIDDEN_FROM_PUBLIC[where])
    net.typed.resources["/image.raw"].rules = [Rule(redirect=to)]
    net.check_refused(net.get(net.typed.url("/image.raw")))


@pytest.mark.parametrize("where", FORBIDDEN_FROM_PUBLIC)
def test_a_metalink_from_a_public_address_stays_outside(net: Net, where: str) -> None:
    """A mirror list is a redirect with more lines."""
    to = net.url(FORBIDDEN_FROM_PUBLIC[where])
    net.typed.resources["/x.meta4"] = metalink(to)
    net.check_refused(net.get(net.typed.url("/x.meta4")))


def test_a_forbidden_mirror_beside_a_right_one_is_left_out(net: Net) -> None:
    """The job goes on with what is allowed; the other one is never asked."""
    net.typed.resources["/x.meta4"] = metalink(net.url(PRIVATE), net.typed.url("/image.raw"))
    net.check_fetched(net.get(net.typed.url("/x.meta4")))
    assert net.other.connections == 0


def test_a_link_field_may_not_lead_inside(net: Net) -> None:
    """RFC 6249 mirrors are a stranger's proposal too."""
    digest = ("Repr-Digest", "sha-256=:" + _base64_of_sha256() + ":")
    link = ("Link", f"<{net.url(PRIVATE)}>; rel=duplicate")
    net.typed.resources["/image.raw"].headers = [digest, link]
    net.check_fetched(net.get(net.typed.url("/image.raw")))
    assert net.other.connections == 0


def _base64_of_sha256() -> str:
    return base64.b64encode(hashlib.sha256(IMAGE).digest()).decode()


@pytest.mark.parametrize("host", [PUBLIC_TOO, "outside.test"])
def test_a_redirect_to_another_public_address_is_followed(net: Net, host: str) -> None:
    """The policy refuses places, not redirects."""
    net.typed.resources["/image.raw"].rules = [Rule(redirect=net.url(host))]
    net.check_fetched(net.get(net.typed.url("/image.raw")))


@pytest.mark.parametrize("host", ["127.0.0.1", PRIVATE, PUBLIC, "[::1]", "localhost"])
def test_what_the_user_typed_may_be_anywhere(net: Net, host: str) -> None:
    """Loopback and private mirrors are common; on the command line the user decides."""
    net.check_fetched(net.get(net.url(host)))


@pytest.mark.parametrize("host", ["127.0.0.1", PRIVATE])
def test_nobody_is_led_to_a_metadata_service(net: Net, host: str) -> None:
    """Not even a server inside may send the host there."""
    with FaultOrigin(
        {"/image.raw": Resource.of(IMAGE)}, listener=net.space.listen(METADATA)
    ) as metadata:
        to = f"http://{METADATA}:{metadata.port}/image.raw"
        net.other.resources["/image.raw"].rules = [Rule(when=When(last_nth=9), redirect=to)]
        refused = net.get(net.url(host))
        assert (refused.code, refused.classes) == (15, ["POLICY"]), refused
        assert metadata.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", METADATA, LINK_LOCAL, "[::1]", "0.0.0.0", "mirror.test", "localhost"]
)
def test_the_strict_policy_also_judges_what_was_typed(net: Net, host: str) -> None:
    """What the agent is told comes from tenants."""
    net.check_refused(net.get(net.url(host), "--policy", "strict"))
