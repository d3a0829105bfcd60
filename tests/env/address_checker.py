# SPDX-License-Identifier: Apache-2.0
"""How does a test run the C core's address check? tests/c/check_address.c as a program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def compile_checker(folder: Path) -> Path:
    """The program, made in *folder*; skips the test where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    program = folder / "check_address"
    parts = (
        "base/addr",
        "base/err",
        "http/cookie",
        "http/http_date",
        "net/net",
        "net/proxy",
        "net/route",
        "net/tls",
    )
    sources = ["tests/c/check_address.c", *(f"csrc/{part}.c" for part in parts)]
    libraries = ["-lcurl", "-lssl", "-lcrypto", "-lpthread"]
    subprocess.run(
        ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Icsrc", *sources, "-o", program, *libraries],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return program


def ask(checker: Path, lines: Sequence[str]) -> list[str]:
    """Its answers to *lines*, one each."""
    done = subprocess.run(
        [checker],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()
