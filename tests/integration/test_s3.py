# SPDX-License-Identifier: Apache-2.0
"""Do objects of a store come by signed links, and by new ones where those expire?"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdl.engine.api import fetch_sync, probe_sync
from fastdl.errors import HttpStatusError, IntegrityError, TrustError, UsageError
from fastdl.publishers.s3 import Signing, signed_url
from tests.env.command import run_fastdl
from tests.env.origin import pseudo_random
from tests.env.s3 import ACCESS, SECRET, Store, object_store, refusal

CONTENT = pseudo_random(19, 6_000_000)
KEY = "24.04/disk (1)+ü.img"
PATH = "/images/24.04/disk%20%281%29%2B%C3%BC.img"
SOURCE = f"s3://images/{KEY}"


@pytest.fixture(autouse=True)
def _no_other_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine has is none of the test's."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, where every tool looks first."""
    pytest.importorskip("botocore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def store() -> Iterator[Store]:
    with object_store(PATH, CONTENT) as made:
        yield made


def test_botocores_signature_is_the_stores(store: Store, credentials: None) -> None:
    """Else the server of these tests would prove nothing."""
    url = signed_url(SOURCE, Signing(endpoint=store.endpoint))
    host, slash, target = url.removeprefix("http://").partition("/")
    assert refusal(host, slash + target) is None
    assert refusal(host, slash + target.replace("disk", "disc")) == "SignatureDoesNotMatch"


def test_an_object_comes_in_parallel_by_a_signed_link(
    store: Store, credentials: None, tmp_path: Path
) -> None:
    """Named as its key ends; what signs the link is shown to nobody."""
    target = tmp_path / "to"
    target.mkdir()
    result = fetch_sync(SOURCE, target, s3_endpoint=store.endpoint)
    assert (target / "disk (1)+ü.img").read_bytes() == CONTENT
    assert set(store.statuses) == {206}
    shown = repr(result)
    assert PATH in shown
    assert "X-Amz-Signature=…" in shown
    assert probe_sync(SOURCE, s3_endpoint=store.endpoint).size == len(CONTENT)


def test_an_expired_link_is_replaced_and_the_download_goes_on(
    credentials: None, tmp_path: Path
) -> None:
    """Links last for minutes, images take hours."""
    with object_store(PATH, CONTENT, cut=300_000) as store:
        result = fetch_sync(
            SOURCE,
            tmp_path / "out",
            s3_endpoint=store.endpoint,
            s3_expires=2,
            limit_rate=2_000_000,
            max_connections=2,
        )
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert 403 in store.statuses
    assert len(store.signatures) > 1
    assert any("link expired" in warning for warning in result.warnings)
    assert result.resumed_bytes > 0


def test_an_expired_link_is_replaced_without_a_pause(credentials: None, tmp_path: Path) -> None:
    """What has expired is not requested again and again, as what is only limited would be."""
    with object_store(PATH, CONTENT, cut=300_000) as store:
        fetch_sync(
            SOURCE,
            tmp_path / "out",
            s3_endpoint=store.endpoint,
            s3_expires=2,
            limit_rate=2_000_000,
            max_connections=2,
        )
    renewals = len(store.signatures) - 1
    assert renewals >= 1
    assert store.statuses.count(403) <= 3 * renewals


def test_a_link_that_is_refused_for_another_reason_is_not_replaced(
    store: Store, credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key is wrong an hour later too."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(HttpStatusError):
        fetch_sync(SOURCE, tmp_path / "out", s3_endpoint=store.endpoint, retry=0)
    assert len(store.statuses) <= 2


def test_without_credentials_it_says_so(store: Store, tmp_path: Path) -> None:
    """The store's own refusal would not tell that none were sent."""
    pytest.importorskip("botocore")
    with pytest.raises(TrustError, match="no credentials"):
        fetch_sync(SOURCE, tmp_path / "out", s3_endpoint=store.endpoint)
    assert not store.statuses


def test_a_command_can_sign(store: Store, credentials: None, tmp_path: Path) -> None:
    """For stores with ways of their own; its URL is asked for anew where it expired."""
    url = signed_url(SOURCE, Signing(endpoint=store.endpoint))
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho '{url}'\n")
    hook.chmod(0o755)
    words = ["get", SOURCE, "-o", str(tmp_path / "out"), "--presign", f"{hook} --quick"]
    done = run_fastdl(words, home=tmp_path)
    assert done.code == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (tmp_path / "asked").read_text() == f"--quick {SOURCE}\n"
    assert "X-Amz-Signature=…" in done.stdout
    for body in ("exit 3", "true", "echo /etc/passwd"):
        hook.write_text(f"#!/bin/sh\n{body}\n")
        done = run_fastdl([*words, "--overwrite", "file"], home=tmp_path)
        assert done.code == UsageError.exit_code, body
    with pytest.raises(UsageError):
        fetch_sync(SOURCE, tmp_path / "x", presign=(str(tmp_path / "absent"),))


@pytest.mark.parametrize(
    "source", ["s3://", "s3://b", "s3://bucket/", "s3://BUCKET/k", "s3://bucket/dir/", "s3:///k"]
)
def test_what_is_no_object_is_a_mistake_of_the_caller(source: str, tmp_path: Path) -> None:
    """With how one is written."""
    with pytest.raises(UsageError, match="s3://BUCKET/KEY"):
        fetch_sync(source, tmp_path / "out", presign=(sys.executable,))


def test_the_stores_own_digest_is_compared_and_weak(store: Store, tmp_path: Path) -> None:
    """It finds bytes that were damaged on their way, and nobody who stands there."""
    url = f"{store.endpoint}{PATH}"
    right = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    wrong = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    store.open = True
    for name, value, integrity in (
        ("x-goog-hash", f"md5={right}", "weak"),
        ("x-ms-blob-content-md5", right, "weak"),
        ("content-md5", wrong, "none"),
    ):
        store.headers = {name: value}
        target = tmp_path / name
        assert fetch_sync(url, target, overwrite="file").integrity == integrity
    store.headers = {"x-goog-hash": f"md5={wrong}"}
    with pytest.raises(IntegrityError, match="object store's own digest"):
        fetch_sync(url, tmp_path / "bad")
    result = fetch_sync(url, tmp_path / "good", checksum=f"sha-256:{sha256}")
    assert (result.integrity, list(result.digests)) == ("strong", ["sha-256"])
