# SPDX-License-Identifier: Apache-2.0
"""The operator's rules for origins: at registration, on the way to hosts, and on a host."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fastdl.errors import ApiParamError, FastdlError, UsageError
from fastdl.lab.metalink import metalink
from fastdl.manager.origins import Origins
from fastdl.wire import messages as m
from fastdl.wire.packed import pack
from tests.env.fake_agent import ALL_KINDS, FakeAgent
from tests.env.manager import Zone
from tests.env.manager import zone as running_zone
from tests.env.openpgp import publisher
from tests.env.signers import signers

DIGEST = hashlib.sha256(b"image").hexdigest()

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the file of rules."""

    def to_file(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(tmp_path / "origins.toml")

    to_file("")
    return to_file


@pytest.fixture
async def zone(tmp_path: Path, write: Write) -> AsyncIterator[Zone]:
    """A zone whose manager has rules."""
    async with running_zone(tmp_path / "state", origins=str(tmp_path / "origins.toml")) as made:
        yield made


async def probing(zone: Zone) -> list[m.Transfer]:
    """Connect a host; the transfers that it is asked to probe."""
    seen: list[m.Transfer] = []

    async def probe(_agent: FakeAgent, command: m.Command) -> m.Done:
        assert isinstance(command.args, m.ProbeArgs)
        seen.append(command.args.transfer)
        return m.ProbeDone(size=5)

    await zone.agent("kvm1", kinds=ALL_KINDS, work={m.Kind.PROBE: probe})
    return seen


async def test_a_host_gets_the_rules_of_its_sources_and_every_block(
    zone: Zone, write: Write, tmp_path: Path
) -> None:
    """In clear, when the command is sent: neither the ledger nor its files have the secret."""
    seen = await probing(zone)
    write(
        """
        [[origin]]
        url = "https://mirror.example/"
        mirrors = ["https://near.example/m/"]
        proxy = "http://p.example:3128"
        headers = { Authorization = "Bearer s3cr3t-of-origin" }
        [[origin]]
        url = "https://near.example/"
        proxy = ""
        [[origin]]
        url = "https://other.example/"
        headers = { Authorization = "Bearer of-another" }
        [[origin]]
        url = "https://bad.example/"
        blocked = "taken over"
    """.replace('        keyring = ""\n', "")
    )
    await zone.template("u24")
    rules = {rule.url: rule for rule in seen[0].rules}
    assert set(rules) == {
        "https://mirror.example/",
        "https://near.example/",
        "https://bad.example/",
    }
    assert rules["https://mirror.example/"].headers == (
        ("Authorization", "Bearer s3cr3t-of-origin"),
    )
    stored = [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert stored
    assert not any(b"s3cr3t-of-origin" in data for data in stored)


async def test_connections_are_by_the_kind_of_origin_unless_a_limit_is_set(
    zone: Zone, write: Write
) -> None:
    """The engine of the host decides; a number is a limit for all of its connections too."""
    seen = await probing(zone)
    write('[[origin]]\nurl = "https://mirror.example/"\nmax-connections = 6\n')
    name = "direct.download.connections.per.origin"
    for number, value in enumerate((None, "3", "48", "0")):
        if value is not None:
            await zone.api("updateConfiguration", name=name, value=value)
        await zone.template(f"u{number}")
    asked = [(one.max_connections_per_origin, one.max_connections) for one in seen]
    assert asked == [(None, 32), (3, 8), (48, 48), (None, 32)]
    assert {rule.max_connections for one in seen for rule in one.rules} == {6}


async def test_nothing_is_registered_from_a_blocked_place(zone: Zone, write: Write) -> None:
    """From the moment that the file says so."""
    seen = await probing(zone)
    await zone.template("u24")
    write('[[origin]]\nurl = "https://mirror.example/"\nblocked = "taken over"\n')
    with pytest.raises(ApiParamError, match="blocked by the operator: taken over"):
        await zone.template("u25")
    assert len(seen) == 1


async def test_a_file_that_cannot_be_read_changes_nothing(
    zone: Zone, write: Write, tmp_path: Path
) -> None:
    """A block must not end with a typing error; at the start it is an error."""
    write('[[origin]]\nurl = "https://mirror.example/"\nblocked = "no"\n')
    with pytest.raises(ApiParamError, match="blocked"):
        await zone.template("u24")
    write("[[origin]\n")
    with pytest.raises(ApiParamError, match="blocked"):
        await zone.template("u24")
    with pytest.raises(UsageError):
        Origins(str(tmp_path / "origins.toml"))


@pytest.mark.parametrize("header", ["X Y", "Host", "Range", "Authorization: Bearer"])
def test_a_header_that_no_host_may_send_is_an_error_at_the_start(
    write: Write, tmp_path: Path, header: str
) -> None:
    """Named with its rule; not in every job of that origin later."""
    write(f'[[origin]]\nurl = "https://mirror.example/"\nheaders = {{ "{header}" = "v" }}\n')
    with pytest.raises(UsageError, match=r"the rule for https://mirror\.example/: "):
        Origins(str(tmp_path / "origins.toml"))


async def test_an_origin_can_demand_signatures(zone: Zone, write: Write, tmp_path: Path) -> None:
    """With the keys that the operator names; whoever registers cannot choose others."""
    listed = f"{DIGEST}  u24.qcow2\n".encode()
    with publisher() as gpg:
        (tmp_path / "keys.gpg").write_bytes(gpg.keyring("one"))
        signatures = {"none": None, "other": gpg.detached(listed, "other")}
        signatures["one"] = gpg.detached(listed, "one")
        chosen = ["other"]
        asked: list[tuple[str, ...]] = []

        async def documents(_agent: FakeAgent, command: m.Command) -> m.Done:
            assert isinstance(command.args, m.DocumentsArgs)
            asked.append(command.args.transfer.sources)
            return m.DocumentsDone(
                documents=(pack(listed), pack(signatures[chosen[0]])), public_source=True
            )

        await zone.agent("kvm1", kinds=ALL_KINDS, work={m.Kind.DOCUMENTS: documents})
        write(f'[[origin]]\nurl = "https://mirror.example/"\nkeyring = "{tmp_path}/keys.gpg"\n')
        with pytest.raises(ApiParamError, match="has to be signed"):
            await zone.template("u24", checksum=f"{{SHA-256}}{DIGEST}")
        url = "https://mirror.example/SHA256SUMS"
        for chosen[0] in ("other", "none"):
            with pytest.raises(FastdlError, match="signature"):
                await zone.template("u24", checksum=url)
        chosen[0] = "one"
        item = await zone.template("u24", checksum=url)
        assert item["checksum"] == DIGEST
        assert item["signedby"] == f"one <one@publisher.example> ({gpg.fingerprint('one')})"
        assert f"{url}.gpg" in asked[-1]
        (tmp_path / "keys.gpg").unlink()
        with pytest.raises(FastdlError, match="keyring"):
            await zone.template("u24", checksum=url)


async def test_a_signed_metalink_is_registered_where_signatures_are_demanded(
    zone: Zone, write: Write, tmp_path: Path
) -> None:
    """Its digest is fixed; it is refused without a signature, with a wrong one, without a hash."""
    keys = signers("minisign", tmp_path / "keys")
    url = "https://mirror.example/u24.qcow2.meta4"
    files = ["https://mirror.example/u24.qcow2"]
    right = metalink("u24.qcow2", files, size=5, sha256=DIGEST).encode()
    weak = metalink("u24.qcow2", files, size=5).encode()
    served: list[tuple[bytes, bytes | None]] = []

    async def documents(_agent: FakeAgent, command: m.Command) -> m.Done:
        assert isinstance(command.args, m.DocumentsArgs)
        assert command.args.transfer.sources == (url, f"{url}.minisig")
        data, signature = served[-1]
        return m.DocumentsDone(documents=(pack(data), pack(signature)), public_source=True)

    await zone.agent("kvm1", kinds=ALL_KINDS, work={m.Kind.DOCUMENTS: documents})
    rule = f'[[origin]]\nurl = "https://mirror.example/"\nkeyring = "{tmp_path}/keys/one.pub"\n'
    write(rule)
    for data, signature in (
        (right, None),
        (right, keys.sign(right, "other")),
        (right, keys.sign(weak, "one")),
        (weak, keys.sign(weak, "one")),
        (b"<html>", keys.sign(b"<html>", "one")),
    ):
        served.append((data, signature))
        with pytest.raises(FastdlError):
            await zone.template("u24", url=url)
    assert not (await zone.api("listTemplates", templatefilter="all")).get("template")
    served.append((right, keys.sign(right, "one")))
    with pytest.raises(ApiParamError, match="another checksum"):
        await zone.template("u24", url=url, checksum="{SHA-256}" + "0" * 64)
    item = await zone.template("u24", url=url)
    assert (item["checksum"], item["checksumsource"]) == (DIGEST, url)
    assert item["signedby"].startswith("minisign key (")
