# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl exec`` do what CloudStack's agent asks, against real origins over https?"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.agent.config import HostConfig
from fastdl.lab.metalink import metalink, metalink_of
from fastdl.trust.keystore import Keystore, Passphrase
from tests.env import images, nfs
from tests.env.certs import CertLab
from tests.env.faults import Rule
from tests.env.landing import PACK
from tests.env.origin import FaultOrigin, Resource, pseudo_random

PACKAGE = "org.apache.cloudstack.agent.directdownload."
PASSPHRASE = "correct horse"
POOL = "11111111-2222-3333-4444-555555555555"
RAW = pseudo_random(5, 3 * 1024 * 1024)
LOOPBACK = ["127.0.0.0/8"]


class Host:
    """A KVM host's configuration folder and one of its pools."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config"
        self.pool = folder / "pool"
        self.temporary = folder / "temporary"
        for made in (self.config, self.pool, self.temporary):
            made.mkdir()
        (self.config / "agent.properties").write_text(
            f"# the agent's own\nkeystore.passphrase={PASSPHRASE}\n"
            f"direct.download.temporary.download.location={self.temporary}\n"
        )
        self.keystore = Keystore(self.config / "cloud.jks", Passphrase(PASSPHRASE))
        self.keystore.create()
        self.stderr = ""

    def exec(self, command: str | list[dict[str, Any]]) -> tuple[str, dict[str, Any], int]:
        """(class of the answer, its fields, exit code) for one command."""
        text = command if isinstance(command, str) else json.dumps(command)
        done = subprocess.run(
            [sys.executable, "-m", "fastdl", "exec", "--config-dir", self.config],
            input=text,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        self.stderr = done.stderr
        assert PASSPHRASE not in done.stdout + done.stderr
        ((name, fields),) = json.loads(done.stdout)[0].items()
        return name.rpartition(".")[2], fields, done.returncode

    def start(self) -> subprocess.Popen[str]:
        """A command under way; its text is still to be written to it."""
        return subprocess.Popen(
            [sys.executable, "-m", "fastdl", "exec", "--config-dir", self.config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def files(self) -> list[str]:
        """The visible files of the pool."""
        return sorted(p.name for p in self.pool.iterdir() if p.name[0] != ".")

    def download(self, url: str, **fields: Any) -> list[dict[str, Any]]:
        """CloudStack's command for *url* into this host's pool."""
        kind = url.partition(":")[0].capitalize()
        if url.endswith((".metalink", ".meta4")):
            kind = "Metalink"
        body = {
            "url": url,
            "templateId": 204,
            "destData": {"uuid": "8a1c9e54-0000-4000-8000-000000000204", "name": "204-2"},
            "destPool": {
                "uuid": POOL,
                "name": "p1",
                "poolType": "Filesystem",
                "path": str(self.pool),
                "host": "kvm1",
                "port": 0,
                "id": 1,
            },
            "headers": {},
            "connectTimeout": 5000,
            "soTimeout": 5000,
            "connectionRequestTimeout": 5000,
            "templateSize": 0,
            "format": "RAW",
            "followRedirects": False,
            "allowedCidrs": LOOPBACK,
            "contextMap": {},
            "wait": 10800,
            "bypassHostMaintenance": False,
        }
        return [{f"{PACKAGE}{kind}DirectDownloadCommand": body | fields}]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A fresh host."""
    return Host(tmp_path)


@pytest.fixture
def origin() -> Iterator[FaultOrigin]:
    """An http origin with one raw template."""
    with FaultOrigin({"/x.raw": Resource.of(RAW)}) as server:
        yield server


@pytest.fixture
def secure(certs: CertLab) -> Iterator[FaultOrigin]:
    """An https origin whose certificate no system trusts: only its own says who it is."""
    context = certs.leaf("self-signed").server_context()
    with FaultOrigin({"/x.raw": Resource.of(RAW)}, tls=context) as server:
        yield server


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_raw_template_arrives_and_is_answered_in_cloudstacks_words(
    host: Host, origin: FaultOrigin
) -> None:
    """The whole of the contract's example: class, fields, and a file of the pool."""
    command = host.download(origin.url("/x.raw"), checksum="{SHA-256}" + _sha256(RAW))
    name, fields, code = host.exec(command)
    assert fields["result"], fields
    path = fields.pop("installPath")
    assert (name, code) == ("DirectDownloadAnswer", 0)
    assert fields == {
        "templateSize": len(RAW),
        "retryOnOtherHosts": False,
        "result": True,
        "contextMap": {},
        "wait": 0,
        "bypassHostMaintenance": False,
    }
    assert (host.pool / path).read_bytes() == RAW
    assert host.files() == [path]
    assert (host.pool / path).stat().st_mode & 0o777 == 0o644
    assert '"progress"' in host.stderr


def test_the_same_command_again_is_answered_without_a_request(
    host: Host, origin: FaultOrigin
) -> None:
    """G01: the marker beside the file knows where it came from."""
    command = host.download(origin.url("/x.raw"), checksum="{SHA-256}" + _sha256(RAW).upper())
    first = host.exec(command)
    seen = len(origin.requests)
    assert host.exec(command) == first
    assert len(origin.requests) == seen
    (marker,) = (host.pool / ".fastdl").glob("*-*.json")
    provenance = json.loads(marker.read_text())
    assert provenance["complete"]
    assert provenance["digests"]["sha-256"] == _sha256(RAW)
    assert provenance["sources"] == [origin.url("/x.raw")]


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_a_qcow2_stays_qcow2_and_its_disk_size_is_answered(host: Host, tmp_path: Path) -> None:
    """``templateSize`` is what the VM will see, not what was downloaded."""
    image = images.build(tmp_path / "x.qcow2", images.Recipe(size=32 * images.MIB))
    with FaultOrigin({"/x.qcow2": Resource.of(image.read_bytes())}) as origin:
        _, fields, code = host.exec(host.download(origin.url("/x.qcow2"), format="QCOW2"))
    assert (fields["templateSize"], code) == (32 * images.MIB, 0)
    assert (host.pool / fields["installPath"]).read_bytes() == image.read_bytes()


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_an_image_that_names_a_file_of_the_host_is_refused_everywhere(
    host: Host, tmp_path: Path
) -> None:
    """CVE-2024-50386: no other host would find it safer, and nothing is left in the pool."""
    image = tmp_path / "x.qcow2"
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-F",
            "raw",
            "-b",
            "/etc/passwd",
            image,
            "4M",
        ],
        check=True,
    )
    with FaultOrigin({"/x.qcow2": Resource.of(image.read_bytes())}) as origin:
        _, fields, code = host.exec(host.download(origin.url("/x.qcow2"), format="QCOW2"))
    assert (fields["result"], fields["retryOnOtherHosts"], code) == (False, False, 24)
    assert fields["details"].startswith("The downloaded file is not a valid QCOW2.")
    assert host.files() == []


def test_an_iso_keeps_its_suffix(host: Host) -> None:
    """CloudStack attaches ISOs by their name."""
    content = bytearray(RAW[: 1 << 20])
    content[32768:32775] = b"\x01CD001\x01"
    content[32768 + 80 : 32768 + 88] = (512).to_bytes(4, "little") + (512).to_bytes(4, "big")
    content[32768 + 128 : 32768 + 132] = b"\x00\x08\x08\x00"
    content[34816:34823] = b"\xffCD001\x01"
    with FaultOrigin({"/x.iso": Resource.of(bytes(content))}) as origin:
        _, fields, _ = host.exec(host.download(origin.url("/x.iso"), format="ISO"))
    assert fields.get("installPath", "").endswith(".iso"), fields
    assert (host.pool / fields["installPath"]).read_bytes() == content


@pytest.mark.parametrize("suffix", ["xz", "zip"])
def test_a_packed_iso_is_unpacked(host: Host, suffix: str) -> None:
    """Nothing can boot from an .iso.xz; its name in the pool says ISO."""
    content = bytearray(2 << 20)
    for n, name in enumerate((b"BEA01", b"NSR02", b"TEA01")):
        content[32768 + 2048 * n : 32768 + 2048 * n + 7] = b"\0" + name + b"\1"
    with FaultOrigin({"/x": Resource.of(PACK[suffix](bytes(content)))}) as origin:
        _, fields, _ = host.exec(host.download(origin.url("/x"), format="ISO"))
    assert fields["result"], fields
    assert fields["templateSize"] == len(content)
    assert fields["installPath"].endswith(".iso")
    assert (host.pool / fields["installPath"]).read_bytes() == content


@pytest.mark.parametrize("name", ["OVA", "TAR", "DIR"])
def test_a_format_that_no_host_can_use_is_refused(
    host: Host, origin: FaultOrigin, name: str
) -> None:
    """Never "whatever it is": nothing is fetched."""
    _, fields, code = host.exec(host.download(origin.url("/x.raw"), format=name))
    assert (fields["result"], fields["retryOnOtherHosts"], code) == (False, False, 23)
    assert name in fields["details"]
    assert origin.sent == 0


def test_a_login_page_is_no_template(host: Host) -> None:
    """Status 200 and HTML: the words of CloudStack, and what came instead."""
    page = b"<!DOCTYPE html><html><title>Sign in</title>" + bytes(100_000)
    with FaultOrigin({"/x": Resource.of(page)}) as origin:
        for name in ("RAW", "QCOW2"):
            _, fields, code = host.exec(host.download(origin.url("/x"), format=name))
            assert (fields["result"], code) == (False, 24), fields
            assert fields["details"].startswith(f"The downloaded file is not a valid {name}")
            assert "html" in fields["details"]
    assert host.files() == []


def test_a_wrong_checksum_is_not_retried_elsewhere(host: Host, origin: FaultOrigin) -> None:
    """The bytes are the same from every host."""
    _, fields, code = host.exec(host.download(origin.url("/x.raw"), checksum="{MD5}" + "0" * 32))
    assert (fields["result"], fields["retryOnOtherHosts"], code) == (False, False, 21)
    assert fields["details"].startswith("Checksum validation failed")
    assert host.files() == []


@pytest.mark.parametrize(
    ("algorithm", "spelling"),
    [
        *((name, "{braces}") for name in ("MD5", "SHA-1", "SHA-256", "SHA-512")),
        *((name, "upper") for name in ("MD5", "SHA-256")),
        *((name, "bare") for name in ("MD5", "SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512")),
    ],
)
def test_every_spelling_of_a_checksum(
    host: Host, origin: FaultOrigin, algorithm: str, spelling: str
) -> None:
    """As CloudStack writes them, in upper case, and by length as older rows have them."""
    digest = hashlib.new(algorithm.replace("-", "").lower(), RAW).hexdigest()
    text = {
        "{braces}": f"{{{algorithm}}}{digest}",
        "upper": f"{{{algorithm}}}{digest.upper()}",
        "bare": digest,
    }[spelling]
    _, fields, _ = host.exec(host.download(origin.url("/x.raw"), checksum=text))
    assert fields["result"], fields


def test_an_unreachable_origin_may_be_tried_from_another_host(host: Host) -> None:
    """The network of this host may be what is wrong."""
    _, fields, code = host.exec(host.download("http://127.0.0.1:9/x.raw", connectTimeout=500))
    assert (fields["result"], fields["retryOnOtherHosts"], code) == (False, True, 10)
    assert fields["details"].startswith("Unable to download template: ")


def test_headers_of_the_template_reach_its_origin(host: Host, origin: FaultOrigin) -> None:
    """``HTTP_HEADER:`` details, for origins that want a token."""
    host.exec(host.download(origin.url("/x.raw"), headers={"X-Token": "canary-7"}))
    assert {r.fields.get("x-token") for r in origin.requests} == {"canary-7"}
    assert "canary-7" not in host.stderr
    assert all("canary-7" not in p.read_text() for p in (host.pool / ".fastdl").glob("*.json"))


def test_loopback_is_refused_unless_the_operator_allows_it(host: Host, origin: FaultOrigin) -> None:
    """The agent's address policy, and both places where exceptions come from."""
    url = origin.url("/x.raw")
    _, fields, code = host.exec(host.download(url, allowedCidrs=[]))
    assert (fields["result"], code) == (False, 15)
    assert origin.requests == []
    with (host.config / "agent.properties").open("a") as file:
        file.write("secstorage.allowed.internal.sites=127.0.0.0/8,10.0.0.0/8\n")
    assert host.exec(host.download(url, allowedCidrs=[]))[1]["result"]


@pytest.mark.parametrize("follow", [True, False])
def test_redirects_are_followed_when_the_command_says_so(
    host: Host, origin: FaultOrigin, follow: bool
) -> None:
    """``store.download.follow.redirects`` reaches the host in the command."""
    origin.resources["/moved"] = Resource.of(b"", rules=[Rule(redirect="{base}/x.raw")])
    _, fields, code = host.exec(host.download(origin.url("/moved"), followRedirects=follow))
    assert fields["result"] is follow, fields
    assert code == 0 if follow else code != 0


def test_https_is_trusted_by_the_keystore_and_not_without(
    host: Host, secure: FaultOrigin, certs: CertLab
) -> None:
    """T13: set up, download, revoke, refused: CloudStack's three commands on one host."""
    url = secure.url("/x.raw")
    _, fields, code = host.exec(host.download(url))
    assert (fields["result"], fields["retryOnOtherHosts"], code) == (False, True, 14)
    pem = certs.leaf("self-signed").cert_file.read_text()
    setup = {"certificate": pem, "certificateName": "mirror1"}
    command = [{PACKAGE + "SetupDirectDownloadCertificateCommand": setup}]
    for _ in range(2):
        name, fields, code = host.exec(command)
        assert (name, fields["result"], code) == ("Answer", True, 0)
        assert fields["details"] == "Certificate mirror1 imported"
    _, fields, code = host.exec(host.download(url))
    assert (fields["result"], code) == (True, 0), fields
    revoke = [{PACKAGE + "RevokeDirectDownloadCertificateCommand": {"certificateAlias": "mirror1"}}]
    for _ in range(2):
        assert host.exec(revoke)[1]["result"]
    _, fields, code = host.exec(host.download(url + "?2"))
    assert (fields["result"], code) == (False, 14)


def test_a_certificate_for_another_host_name_does_not_help(host: Host, certs: CertLab) -> None:
    """T13: CloudStack checks no names; here the anchor is bound to the name it bears."""
    identity = certs.leaf("self-signed-wrong-host")
    host.keystore.import_certificate("mirror", identity.cert_file.read_text())
    with FaultOrigin({"/x.raw": Resource.of(RAW)}, tls=identity.server_context()) as origin:
        _, fields, code = host.exec(host.download(origin.url("/x.raw")))
    assert (fields["result"], code) == (False, 14)


def test_a_broken_keystore_stops_https_and_only_https(
    host: Host, origin: FaultOrigin, secure: FaultOrigin
) -> None:
    """T15: CloudStack falls back to other trust; nothing is fetched here."""
    (host.config / "cloud.jks").write_bytes(b"garbage")
    _, fields, code = host.exec(host.download(secure.url("/x.raw")))
    assert (fields["result"], code) == (False, 14)
    assert secure.requests == []
    assert host.exec(host.download(origin.url("/x.raw")))[1]["result"]


def test_a_certificate_that_cannot_be_used_is_not_called_imported(
    host: Host, certs: CertLab
) -> None:
    """CloudStack answers success whatever keytool says."""
    for pem in (certs.leaf("expired").cert_file.read_text(), "nonsense"):
        fields = {"certificate": pem, "certificateName": "m"}
        name, answer, code = host.exec(
            [{PACKAGE + "SetupDirectDownloadCertificateCommand": fields}]
        )
        assert (name, answer["result"], code) == ("Answer", False, 52)
    fields = {"certificate": certs.ca.cert_file.read_text(), "certificateName": "cloudca"}
    _, answer, code = host.exec([{PACKAGE + "SetupDirectDownloadCertificateCommand": fields}])
    assert (answer["result"], code) == (False, 53)
    assert host.keystore.items() == []


def test_a_missing_passphrase_is_answered_as_cloudstack_does(host: Host) -> None:
    """Operators search for these words."""
    (host.config / "agent.properties").write_text("")
    fields = {"certificate": "x", "certificateName": "m"}
    _, answer, code = host.exec([{PACKAGE + "SetupDirectDownloadCertificateCommand": fields}])
    assert answer["details"] == "No password found for keystore: cloud.jks"
    assert code == 50


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_check_url_answers_the_disks_size(host: Host, tmp_path: Path) -> None:
    """What registration stores as the template's size."""
    image = images.build(tmp_path / "x.qcow2", images.Recipe(size=8 * images.MIB))
    (host.config / "agent.properties").write_text("secstorage.allowed.internal.sites=127.0.0.0/8\n")
    (host.config / "cloud.jks").unlink()
    with FaultOrigin({"/x.qcow2": Resource.of(image.read_bytes())}) as origin:
        for path, size in (("/x.qcow2", 8 * images.MIB), ("/missing", None)):
            fields = {"format": "QCOW2", "url": origin.url(path), "connectTimeout": 5000}
            name, answer, _ = host.exec([{PACKAGE + "CheckUrlCommand": fields}])
            assert name == "CheckUrlAnswer"
            assert answer["result"] is (size is not None), answer
            assert answer.get("templateSize") == size


def test_a_metalink_names_its_mirrors(host: Host, origin: FaultOrigin) -> None:
    """The digest comes from the metalink, the bytes from the mirror it names."""
    document = metalink_of(RAW, [origin.url("/x.raw")], name="x.raw")
    origin.resources["/x.metalink"] = Resource.of(
        document.encode(), content_type="application/metalink4+xml"
    )
    _, fields, code = host.exec(host.download(origin.url("/x.metalink")))
    assert (fields["result"], code) == (True, 0), fields
    assert (host.pool / fields["installPath"]).read_bytes() == RAW


def test_a_missing_temporary_location_is_answered_as_cloudstack_does(
    host: Host, origin: FaultOrigin
) -> None:
    """Another host may have it."""
    host.temporary.rmdir()
    _, fields, _ = host.exec(host.download(origin.url("/x.raw")))
    assert fields["details"] == (
        "The temporary location path for downloading templates does not exist: "
        f"{host.temporary} on this host"
    )


@pytest.mark.parametrize("written", [False, True])
def test_a_crash_before_the_name_is_given_costs_no_second_download(
    host: Host, origin: FaultOrigin, written: bool
) -> None:
    """What has landed, proven, lies where only the engine puts files: with the note of it or
    without, the next command gives it its name."""
    for checksum in (None, "{SHA-256}" + _sha256(RAW)):
        command = host.download(origin.url("/x.raw"), checksum=checksum)
        path = host.exec(command)[1]["installPath"]
        marker = host.pool / ".fastdl" / f"{path}.json"
        if not written:
            marker.write_text(json.dumps({"volume": path, "complete": False}))
        landing = host.pool / ".fastdl" / "new" / path
        landing.mkdir(parents=True)
        (host.pool / path).rename(landing / path)
        before = sum(1 for r in origin.requests if r.method == "GET")
        sent = origin.sent
        _, fields, _ = host.exec(command)
        assert (fields["result"], fields["installPath"]) == (True, path)
        assert fields["templateSize"] == len(RAW)
        assert (origin.sent, len(origin.requests)) == (sent, before)
        if checksum or not written:
            assert json.loads(marker.read_text())["digests"]["sha-256"] == _sha256(RAW)
        assert (host.pool / path).read_bytes() == RAW


def test_a_strangers_file_with_the_right_bytes_is_not_ours(host: Host, origin: FaultOrigin) -> None:
    """Who adopts it would delete it one day; a note that something was begun proves nothing."""
    command = host.download(origin.url("/x.raw"), checksum="{SHA-256}" + _sha256(RAW))
    path = host.exec(command)[1]["installPath"]
    for note in (None, {"volume": path, "complete": False}):
        marker = host.pool / ".fastdl" / f"{path}.json"
        marker.unlink()
        if note is not None:
            marker.write_text(json.dumps(note))
        _, fields, _ = host.exec(command)
        assert not fields["result"]
        assert "was not put there by fastdl" in fields["details"]
        assert not fields.get("retryOnOtherHosts")
        marker.touch()


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("kind", ["RAW", "QCOW2"])
def test_a_compressed_template_is_unpacked_into_the_pool(
    host: Host, tmp_path: Path, kind: str, suffix: str
) -> None:
    """As CloudStack does; the checksum is of what was downloaded, the size of the disk."""
    if kind == "RAW":
        content, size = RAW + bytes(1 << 20), len(RAW) + (1 << 20)
    else:
        recipe = images.Recipe(size=16 * images.MIB)
        content, size = images.build(tmp_path / "x", recipe).read_bytes(), 16 * images.MIB
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix](content)
    path = f"/x.{kind.lower()}.{suffix}"
    with FaultOrigin({path: Resource.of(packed)}) as origin:
        checksum = "{SHA-256}" + _sha256(packed)
        _, fields, _ = host.exec(host.download(origin.url(path), format=kind, checksum=checksum))
        assert fields["result"], fields
        assert fields["templateSize"] == size
        assert (host.pool / fields["installPath"]).read_bytes() == content
        assert {p.name for p in host.pool.iterdir()} == {fields["installPath"], ".fastdl"}


@pytest.mark.skipif(not images.HAVE_QEMU, reason=images.NEED_QEMU)
def test_a_compressed_image_is_checked_like_any_other(host: Host, tmp_path: Path) -> None:
    """A layer of gzip hides neither a backing file nor another format than was declared."""
    image = tmp_path / "x.qcow2"
    images.run(
        *("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw"),
        *("-b", "/etc/passwd", image, "4M"),
    )
    resources = {
        "/unsafe.gz": Resource.of(gzip.compress(image.read_bytes())),
        "/raw.gz": Resource.of(gzip.compress(RAW)),
    }
    with FaultOrigin(resources) as origin:
        for path, codes in (("/unsafe.gz", {24}), ("/raw.gz", {23, 24})):
            _, fields, code = host.exec(host.download(origin.url(path), format="QCOW2"))
            assert not fields["result"]
            assert code in codes, fields
            assert host.files() == []


def test_a_strangers_file_is_neither_replaced_nor_adopted(host: Host, origin: FaultOrigin) -> None:
    """A name that is taken by something unknown stays what it is."""
    command = host.download(origin.url("/x.raw"))
    path = host.pool / host.exec(command)[1]["installPath"]
    path.write_bytes(b"somebody's disk")
    (host.pool / ".fastdl" / f"{path.name}.json").unlink()
    for _ in range(2):
        _, fields, code = host.exec(command)
        assert (fields["result"], code) == (False, 33), fields
        assert path.read_bytes() == b"somebody's disk"


def test_the_same_template_at_once_is_one_download(host: Host, origin: FaultOrigin) -> None:
    """Two VMs start from one template: the second waits, and finds what the first made."""
    origin.resources["/x.raw"].rules.append(Rule(rate=4e6))
    command = json.dumps(host.download(origin.url("/x.raw")))
    runs = [host.start() for _ in range(3)]
    outcomes = [run.communicate(command, timeout=90)[0] for run in runs]
    assert len(set(outcomes)) == 1
    assert '"result":true' in outcomes[0]
    assert origin.sent < 2 * len(RAW)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_command_is_resumed_by_the_next(host: Host, number: signal.Signals) -> None:
    """Stopped, it still answers; killed, its worker goes with it. Neither loses what was there."""
    content = pseudo_random(9, 24 * 1024 * 1024)
    with FaultOrigin({"/x.raw": Resource.of(content, rules=[Rule(rate=3e6)])}) as origin:
        command = json.dumps(host.download(origin.url("/x.raw")))
        run = host.start()
        assert run.stdin is not None
        run.stdin.write(command)
        run.stdin.close()
        run.stdin = None
        origin.wait_for(lambda: origin.sent > 12 * 1024 * 1024)
        run.send_signal(number)
        out, _ = run.communicate(timeout=60)
        if number is not signal.SIGKILL:
            assert run.returncode == 130
            assert '"result":false' in out
        assert host.files() == []
        origin.resources["/x.raw"].rules.clear()
        _, fields, _ = host.exec(command)
        assert fields["result"], fields
        assert (host.pool / fields["installPath"]).read_bytes() == content
        assert origin.sent < 1.6 * len(content)


def test_nfs_needs_a_listed_server_and_no_users_ids(host: Host, tmp_path: Path) -> None:
    """Whoever registers a template does not choose as whom the host reads another's disk."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "x.raw").write_bytes(RAW)
    with nfs.nfs_server(tmp_path / "export", tmp_path / "nfs") as server:
        url = server.url("x.raw")
        refused: list[tuple[dict[str, Any], str]] = [
            ({"allowedCidrs": []}, url),
            ({"allowedCidrs": [], "nfsServers": ["10.0.0.0/8"]}, url),
            ({"nfsServers": LOOPBACK}, url + "&uid=0"),
            ({"nfsServers": LOOPBACK}, url + "&gid=0"),
        ]
        for fields, where in refused:
            _, answer, code = host.exec(host.download(where, **fields))
            assert (answer["result"], code) == (False, 15), answer
        listed = host.download(url, allowedCidrs=[], nfsServers=LOOPBACK)
        assert host.exec(listed)[1]["result"]
        with (host.config / "agent.properties").open("a") as file:
            file.write("direct.download.nfs.servers=127.0.0.1\n")
        again = host.download(url.replace("x.raw", "./x.raw"), allowedCidrs=[])
        assert host.exec(again)[1]["result"]


@pytest.mark.parametrize("follow", [True, False])
def test_an_images_url_does_not_become_a_metalink(
    host: Host, origin: FaultOrigin, follow: bool
) -> None:
    """Registered was an image; its server says metalink later, and would lead elsewhere."""
    document = metalink("x", [origin.url("/x.raw")])
    kind = "application/metalink4+xml"
    origin.resources["/y.raw"] = Resource.of(document.encode(), content_type=kind)
    command = host.download(origin.url("/y.raw"), followRedirects=follow)
    _, fields, code = host.exec(command)
    assert (fields["result"], code) == (False, 15), fields
    assert "responds with a metalink" in fields["details"]
    assert origin.requests_of("/x.raw") == []
    assert host.files() == []
    ((_, body),) = command[0].items()
    assert host.exec([{f"{PACKAGE}MetalinkDirectDownloadCommand": body}])[1]["result"]


def test_a_template_on_nfs_needs_no_mount(host: Host, tmp_path: Path) -> None:
    """What CloudStack documents and cannot do: ``nfs://server/export/path``."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "x.raw").write_bytes(RAW)
    with nfs.nfs_server(tmp_path / "export", tmp_path / "nfs") as server:
        url = server.url("x.raw")
        _, fields, code = host.exec(host.download(url, checksum="{SHA-256}" + _sha256(RAW)))
    assert (fields["result"], code) == (True, 0), fields
    assert (host.pool / fields["installPath"]).read_bytes() == RAW


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "Answer"),
        ("not json", "Answer"),
        ('[{"com.cloud.agent.api.PingCommand":{}}]', "UnsupportedAnswer"),
        (f'[{{"{PACKAGE}HttpDirectDownloadCommand":{{"url":7}}}}]', "Answer"),
    ],
)
def test_there_is_always_an_answer(host: Host, text: str, name: str) -> None:
    """CloudStack waits for one, whatever it sent."""
    answered, fields, code = host.exec(text)
    assert (answered, fields["result"], code) == (name, False, 2)
    assert fields["details"]


def test_the_configuration_of_a_fresh_host_is_made(tmp_path: Path) -> None:
    """Keystore and properties, private, with a passphrase nobody chose; an old one is kept."""
    folder = tmp_path / "etc" / "agent"
    config = HostConfig.ensure(folder)
    assert config.keystore().items() == []
    assert (folder / "agent.properties").stat().st_mode & 0o777 == 0o600
    assert HostConfig.ensure(folder).values == config.values
