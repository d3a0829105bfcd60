# SPDX-License-Identifier: Apache-2.0
"""Does the C core hold up on its own: under sanitizers, over its fuzz corpora, warning-free?"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
C_TESTS = sorted(path.stem for path in (ROOT / "tests" / "c").glob("test_*.c"))
FUZZ_TARGETS = sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.c"))
TIMEOUT_S = 600

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("cc") is None, reason="no make or no C compiler"
)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build directory of this run, shared by its tests: the library is compiled once."""
    return tmp_path_factory.mktemp("csrc")


def make(build: Path, *args: str) -> str:
    """The output of make in csrc/; fails the test with that output where make fails."""
    # Neither another make's job server nor a caller's flags may reach this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"MAKEFLAGS", "MFLAGS", "CFLAGS", "LDFLAGS", "LD_PRELOAD"}
    }
    done = subprocess.run(
        ["make", "-C", str(ROOT / "csrc"), f"BUILD={build}", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stdout[-8000:], pytrace=False)
    return done.stdout


def need_sanitizer(build: Path, flag: str) -> None:
    """Skips the test where the compiler has no runtime library for *flag*."""
    done = subprocess.run(
        ["cc", flag, "-x", "c", "-", "-o", str(build / "probe")],
        input="int main(void) { return 0; }",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"cc cannot link with {flag}")


def run_c_test(build: Path, goal: str, name: str) -> None:
    """Builds and runs one C test; a test that cannot run here says why and is skipped."""
    output = make(build, goal, f"TESTS={name}")
    verdicts = [line for line in output.splitlines() if line.endswith(f" {name}")]
    if any(line.startswith("skip ") for line in verdicts):
        pytest.skip(output.strip().splitlines()[-2] if output.count("\n") > 1 else name)
    assert any(line.startswith("ok ") for line in verdicts), output[-8000:]


def test_the_library_builds_with_the_hardened_flags(build: Path) -> None:
    """What is shipped is compiled at another optimisation level, which warns of other things."""
    make(build, "all")
    assert (build / "release" / "libfdl.a").stat().st_size > 0


@pytest.mark.parametrize("name", C_TESTS)
def test_c_test_passes_under_address_and_ub_sanitizer(build: Path, name: str) -> None:
    """Hostile bytes that read or write out of bounds must not pass unseen."""
    need_sanitizer(build, "-fsanitize=address,undefined")
    run_c_test(build, "check", name)


@pytest.mark.parametrize("name", C_TESTS)
def test_c_test_passes_under_thread_sanitizer(build: Path, name: str) -> None:
    """Several threads share the pool, the plan and the target: a race is a corrupt image."""
    need_sanitizer(build, "-fsanitize=thread")
    run_c_test(build, "tsan", name)


@pytest.mark.parametrize("target", FUZZ_TARGETS)
def test_fuzz_target_holds_over_its_corpus(build: Path, target: str) -> None:
    """What broke a parser once must never break it again, without a fuzzer at hand."""
    need_sanitizer(build, "-fsanitize=address,undefined")
    assert f"ok   replay {target}" in make(build, "fuzz-replay", f"FUZZ={target}")


def test_sha256_holds_on_armv8_under_emulation(tmp_path: Path) -> None:
    """The kernel for processors that the machines of these tests do not have."""
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    if missing := [name for name in (compiler, emulator) if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed (gcc-aarch64-linux-gnu, qemu-user)")
    program = tmp_path / "test_sha256"
    test = ROOT / "tests" / "c" / "test_sha256.c"
    sources = sorted((ROOT / "csrc" / "base").glob("sha256*.c"))
    flags = "-static -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wconversion -Werror"
    subprocess.run(
        [compiler, *flags.split(), "-I", ROOT / "csrc", "-o", program, test, *sources],
        check=True,
        timeout=TIMEOUT_S,
    )
    done = subprocess.run(
        [emulator, program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, "armv8 holds\n"), done.stderr
