# SPDX-License-Identifier: Apache-2.0
"""Does ``fastdl api`` say why a real manager refused, under the class that the table gives it?

CloudStack's envelope has an errorcode and a cserrorcode; most refusals share 530.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastdl.cli.api_client import refusal
from fastdl.errors import BY_CODE
from fastdl.lab.certs import self_signed
from tests.env.process import FASTDL, ManagerProcess


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[ManagerProcess]:
    """A manager in a process of its own."""
    made = ManagerProcess(tmp_path, f"sqlite:///{tmp_path / 'manager.db'}")
    await made.start()
    try:
        yield made
    finally:
        await made.end(signal.SIGKILL)


async def test_a_refusal_has_its_class_and_the_managers_words(
    manager: ManagerProcess, tmp_path: Path
) -> None:
    """Whoever takes it for a bug would report it instead of choosing another name."""
    credentials = tmp_path / "state" / "admin.json"

    async def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*FASTDL, "api", "--credentials", str(credentials), *words]
        return await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60
        )

    zone = json.loads((await call("create", "zone", "name=z1")).stdout)["zone"]["id"]
    (tmp_path / "m.pem").write_text(self_signed())
    upload = (
        "upload",
        "templatedirectdownloadcertificate",
        "hypervisor=KVM",
        f"zoneid={zone}",
        f"certificate=@{tmp_path / 'm.pem'}",
    )
    assert (await call(*upload, "name=m1")).returncode == 0
    absent = "00000000-0000-0000-0000-000000000000"
    template = (
        "register",
        "template",
        "name=t",
        "format=QCOW2",
        "hypervisor=KVM",
        f"zoneid={zone}",
        "directdownload=true",
        "url=https://mirror.example/t.qcow2",
    )
    for words, code, text in (
        ((*upload, "name=m1"), 62, "Certificate alias m1 has been already created"),
        ((*upload, "name=cloud"), 62, "Please provide a different alias name"),
        (
            ("revoke", upload[1], "hypervisor=KVM", "name=m9", f"zoneid={zone}"),
            62,
            "Could not find certificate with alias m9",
        ),
        (template, 62, "Couldn't find a host to validate URL"),
        (("create", "zone", "name=z1"), 62, "A zone with the name z1 already exists"),
        (("delete", upload[1], f"id={absent}"), 61, "does not exist"),
        (("dance", "zone"), 60, "unable to verify user credentials"),
    ):
        refused = await call(*words)
        assert refused.stderr.startswith(f"fastdl: {BY_CODE[code].code_name}: "), refused.stderr
        assert refused.returncode == code
        assert text in refused.stderr
        assert "INTERNAL" not in refused.stderr


@pytest.mark.parametrize(
    ("code", "said", "exit_code"),
    [
        (530, {"cserrorcode": 9999, "errortext": "no"}, 62),
        (530, {"errortext": "no"}, 62),
        (530, {"cserrorcode": 4285, "errortext": "the host is away"}, 70),
        (530, {"cserrorcode": 4340, "errortext": "full"}, 30),
        (530, {"cserrorcode": 4350, "errortext": "wrong"}, 61),
        (401, {"errortext": "unable to verify"}, 60),
        (531, {"cserrorcode": 4365, "errortext": "permission denied"}, 60),
        (429, {"cserrorcode": 4545, "errortext": "slowly"}, 63),
        (535, {"cserrorcode": 4370, "errortext": "the quota"}, 62),
        (599, {"cserrorcode": ["hostile"], "errortext": None}, 62),
    ],
)
def test_every_envelope_has_a_class_and_none_is_a_bug_of_ours(
    code: int, said: dict[str, Any], exit_code: int
) -> None:
    """Also those of CloudStack's codes that this manager never sends."""
    error = refusal(code, said)
    assert error.exit_code == exit_code
    assert error.message == (
        said["errortext"] or f"refused with error {code}, and without a reason"
    )
