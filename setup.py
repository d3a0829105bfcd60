# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot say: libfdl.a from csrc/, then one extension per core/*.pyx."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

JOBS = len(os.sched_getaffinity(0))

# Debian 12's are the oldest that are built and tested; their security fixes come with Debian's.
REQUIRED = [
    "libcurl >= 7.88.0",
    "libssl >= 3.0",
    "libcrypto >= 3.0",
    "zlib",
    "libdeflate",
    "libzstd",
    "liblzma",
]
OPTIONAL = {"libnfs": "FDL_WITH_NFS", "libnbd": "FDL_WITH_NBD"}
HARDENING = [
    "-O2",
    "-g",
    "-std=gnu11",
    "-fvisibility=hidden",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=3",
    "-D_GNU_SOURCE",
    "-D_FILE_OFFSET_BITS=64",
]
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
]
# Errors in our own builds (scripts/ and continuous integration), not with every user's compiler.
if os.environ.get("FASTDL_WERROR"):
    WARNINGS.append("-Werror")
# What an extension does not use is not loaded with it: a command's start counts.
LINK = ["-Wl,--as-needed", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]


def pkg_config(*args: str) -> list[str]:
    """The output of pkg-config as a list; SystemExit with the Debian packages where it fails."""
    try:
        out = subprocess.run(["pkg-config", *args], capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as exc:
        raise SystemExit(
            f"fastdl needs C libraries that are missing or too old: {exc.stderr.strip()}\n"
            "Debian: libcurl4-openssl-dev libssl-dev zlib1g-dev libdeflate-dev libzstd-dev "
            "liblzma-dev libbz2-dev libxxhash-dev (and libnfs-dev, libnbd-dev if wanted)"
        ) from None
    return shlex.split(out.stdout)


def has(package: str) -> bool:
    """Whether an optional C library can be built against (FASTDL_WITHOUT=a,b switches some off)."""
    if package in os.environ.get("FASTDL_WITHOUT", "").split(","):
        return False
    return subprocess.run(["pkg-config", "--exists", package], check=False).returncode == 0


if shutil.which("pkg-config") is None:
    raise SystemExit("fastdl needs pkg-config to find its C libraries (Debian: pkg-config)")
packages = REQUIRED + [name for name in OPTIONAL if has(name)]
cflags = pkg_config("--cflags", *packages)
defines = [f"-D{OPTIONAL[name]}=1" for name in packages if name in OPTIONAL]
# CET where the compiler targets x86; other machines have no such flag.
if os.uname().machine == "x86_64":
    HARDENING.append("-fcf-protection")

sources = sorted(str(path) for path in Path("csrc").glob("*/*.c"))
headers = sorted(str(path) for path in Path("csrc").glob("*/*.h"))

# build_clib has no notion of headers: naming them as dependencies of the extensions and
# of the library rebuilds both when one changes.
library = (
    "fdl",
    {
        "sources": sources,
        "include_dirs": ["csrc"],
        "cflags": [*HARDENING, *WARNINGS, *cflags, *defines],
        "obj_deps": {"": headers},
    },
)

extensions = [
    Extension(
        f"fastdl.core.{path.stem}",
        [str(path)],
        include_dirs=["csrc"],
        depends=[*headers, *(str(p) for p in Path("src/fastdl/core").rglob("*.pxd")), *sources],
        extra_compile_args=[*HARDENING, *cflags, *defines, "-Wall", "-Wno-unused-function"],
        extra_link_args=[*LINK, *pkg_config("--libs", *packages), "-lbz2", "-lpthread"],
        libraries=["fdl"],
    )
    for path in sorted(Path("src/fastdl/core").glob("*.pyx"))
]


def side_by_side(compile_: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """A compiler's ``compile`` that has a source compiled on each processor."""

    def compiled(sources: Sequence[str], *args: object, **options: object) -> list[str]:
        with ThreadPoolExecutor(JOBS) as pool:
            made = pool.map(lambda source: compile_([source], *args, **options), sources)
            return [name for names in made for name in names]

    return compiled


class BuildLibrary(build_clib):
    """Archive the objects of this tree alone: ``ar`` adds to an archive that is there, which
    would keep those of files that were renamed or removed since the last build."""

    def build_libraries(self, libraries: list[tuple[str, dict[str, object]]]) -> None:
        for name, _ in libraries:
            Path(self.build_clib, f"lib{name}.a").unlink(missing_ok=True)
        self.compiler.compile = side_by_side(self.compiler.compile)
        super().build_libraries(libraries)


class BuildExtensions(build_ext):
    """An extension on each processor, unless an option says otherwise."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or JOBS


setup(
    cmdclass={"build_clib": BuildLibrary, "build_ext": BuildExtensions},
    libraries=[library],
    ext_modules=cythonize(
        extensions,
        include_path=["src"],
        # Processes, which another start method would have to import this file for.
        nthreads=JOBS if multiprocessing.get_start_method() == "fork" else 0,
        compiler_directives={"language_level": "3", "binding": False, "embedsignature": True},
    ),
)
