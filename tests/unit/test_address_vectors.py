# SPDX-License-Identifier: Apache-2.0
"""Do model, core and manager classify every address alike? One table, three checks.

What one of them lets through the next one connects to: a difference is a hole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from fastdl.errors import ApiParamError, FastdlError
from fastdl.manager.downloads.registration import check_url
from fastdl.manager.settings import INTERNAL_SITES, NFS_SERVERS, check
from fastdl.model.address import (
    AddressClass,
    classify,
    literal_address,
    refused,
    refused_nfs,
)
from fastdl.model.referral import refused_port
from fastdl.model.url import Url
from tests.env.address_checker import ask, compile_checker

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "addresses.json").read_text(encoding="utf-8")
)
ADDRESSES: Final[dict[str, str]] = {v["address"]: v["class"] for v in VECTORS["addresses"]}
HOSTS: Final[list[dict[str, str]]] = VECTORS["hosts"]
STRICT: Final = {"public", "private"}
ORDER: Final = [cls.value for cls in AddressClass]
EVERYTHING: Final = ("0.0.0.0/0", "::/0")


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C core's address check as a program."""
    return compile_checker(tmp_path_factory.mktemp("checker"))


def test_the_model_knows_each_class() -> None:
    """And what follows from it under the strict policy."""
    for address, cls in ADDRESSES.items():
        assert classify(address).value == cls, address
        assert (refused(address, "strict") is None) is (cls in STRICT), address
        assert (refused(address, "strict", EVERYTHING) is None) is (cls != "metadata"), address
        assert refused_nfs(address, "strict"), address


def test_the_core_knows_each_class(checker: Path) -> None:
    """Typed under the strict policy: allowed as its class says, NFS never."""
    answers = ask(checker, [f"{address} 1 -1" for address in ADDRESSES])
    for (address, cls), answer in zip(ADDRESSES.items(), answers, strict=True):
        assert answer == f"{ORDER.index(cls)} {int(cls in STRICT)} 0", address


def test_registration_takes_what_the_engine_would(checker: Path) -> None:
    """A template that every host refuses must not be registered."""
    assert checker
    for address, cls in ADDRESSES.items():
        host = f"[{address}]" if ":" in address else address
        for scheme, fine in (("http", cls in STRICT), ("https", cls in STRICT), ("nfs", False)):
            assert _registers(f"{scheme}://{host}/x/a.qcow2") is fine, (scheme, address)
        excepted = _registers(f"http://{host}/a.qcow2", allowed_cidrs=EVERYTHING)
        assert excepted is (cls != "metadata"), address
        listed = _registers(f"nfs://{host}/x/a.qcow2", nfs_servers=EVERYTHING)
        assert listed is (cls != "metadata"), address


def _registers(url: str, **lists: tuple[str, ...]) -> bool:
    try:
        check_url(url, **lists)
    except ApiParamError:
        return False
    return True


@pytest.mark.parametrize("setting", [INTERNAL_SITES, NFS_SERVERS])
def test_no_setting_takes_a_metadata_address(setting: str) -> None:
    """It would say that something is allowed which never is."""
    for address, cls in ADDRESSES.items():
        whole = 128 if ":" in address else 32
        for text in (address, f"{address}/{whole}", f"10.0.0.0/8, {address}"):
            if cls == "metadata":
                with pytest.raises(ApiParamError, match="metadata"):
                    check(setting, text)
            else:
                assert check(setting, text) == text


@pytest.mark.parametrize("vector", HOSTS, ids=lambda v: v["host"])
def test_a_typed_host_is_one_thing_or_refused(vector: dict[str, str]) -> None:
    """No spelling of an address passes for a name; registration says the same."""
    url = f"http://{vector['host']}/a.qcow2"
    try:
        address = literal_address(Url.parse(url).host)
    except FastdlError:
        found = "refused"
    else:
        found = "name" if address is None else classify(address).value
    assert found == vector["url"]
    if found == "refused":
        with pytest.raises(ApiParamError):
            check_url(url)
    elif found not in {"name", *STRICT}:
        with pytest.raises(ApiParamError, match="Illegal host specified in url"):
            check_url(url)
    else:
        assert _registers(url)


def test_the_core_reads_hosts_that_a_proxy_would_resolve(checker: Path) -> None:
    """A redirect names them; nobody here sees what the proxy makes of them."""
    vectors = [v for v in HOSTS if "text" in v]
    for vector, answer in zip(
        vectors, ask(checker, [f"text {v['host']}" for v in vectors]), strict=True
    ):
        read = ORDER[int(answer)] if answer.isdigit() else answer
        assert read == vector["text"], vector


def test_nobody_leads_further_inside(checker: Path) -> None:
    """Both policies, both checks, every pair of classes."""
    for policy, strict in (("user", 0), ("strict", 1)):
        for from_class, leads in VECTORS["leads"].items():
            leader = AddressClass(from_class)
            lines = [f"{address} {strict} {ORDER.index(from_class)}" for address in ADDRESSES]
            for (address, cls), answer in zip(ADDRESSES.items(), ask(checker, lines), strict=True):
                fine = cls in leads and (policy == "user" or cls in STRICT)
                assert (refused(address, policy, (), leader) is None) is fine, (leader, address)
                assert answer.split()[1] == str(int(fine)), (leader, address)


def test_the_ports_that_are_followed(checker: Path) -> None:
    """Well-known services are nobody's to be led to."""
    for name, fine in (("followed", True), ("refused", False)):
        ports = VECTORS["ports"][name]
        assert [refused_port(port) is None for port in ports] == [fine] * len(ports)
        assert ask(checker, [f"port {port}" for port in ports]) == [str(int(fine))] * len(ports)
