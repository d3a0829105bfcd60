# SPDX-License-Identifier: Apache-2.0
"""Is the libcurl that is found at run time as new as the one that was asked for at build time?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_OLD = """
#include <curl/curl.h>
curl_version_info_data *curl_version_info(CURLversion which)
{
    static curl_version_info_data old = {.version = "7.68.0", .version_num = 0x074400};
    (void)which;
    return &old;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_an_old_libcurl_is_refused_and_shown(tmp_path: Path) -> None:
    """Its holes are known; whichever package or path brought it in."""
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text(_OLD)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}

    def fastdl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fastdl", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert "libcurl 7.68.0" in fastdl("--version").stdout
    got = fastdl("get", "http://127.0.0.1:9/x", "-o", str(tmp_path / "x"), "--retry", "0")
    assert got.returncode == 74
    assert "libcurl is older than 7.88.0" in got.stderr
