# SPDX-License-Identifier: Apache-2.0
"""Is agent.properties read as Java reads it, and left alone where it is not ours?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.agent import properties

TEXT = """\
# a comment
! another
plain=value
spaced = value with spaces
colon: value
bare value
   indented=yes
continued=one,\\
    two,\\
    three
escaped\\ key=a\\tb\\u00e9
empty=
equals=a=b=c
twice=first
twice=second
path=C:\\\\dir
"""
EXPECTED = {
    "plain": "value",
    "spaced": "value with spaces",
    "colon": "value",
    "bare": "value",
    "indented": "yes",
    "continued": "one,two,three",
    "escaped key": "a\tbé",
    "empty": "",
    "equals": "a=b=c",
    "twice": "second",
    "path": "C:\\dir",
}


def test_the_format_of_java() -> None:
    """Every form that its manual names."""
    assert properties.parse(TEXT) == EXPECTED


@pytest.mark.skipif(not shutil.which("java"), reason="no java on this machine")
def test_java_itself_reads_the_same(tmp_path: Path) -> None:
    """The oracle: the class that CloudStack's agent uses."""
    (tmp_path / "agent.properties").write_text(TEXT)
    (tmp_path / "Show.java").write_text(
        "import java.io.*; import java.util.*;\n"
        "class Show { public static void main(String[] a) throws Exception {\n"
        "  Properties p = new Properties(); p.load(new FileReader(a[0]));\n"
        "  for (String k : new TreeSet<>(p.stringPropertyNames()))\n"
        '    System.out.print(k + "\\0" + p.getProperty(k) + "\\0"); } }\n'
    )
    done = subprocess.run(
        [
            "java",
            "-Dstdout.encoding=UTF-8",
            "-Dfile.encoding=UTF-8",
            tmp_path / "Show.java",
            tmp_path / "agent.properties",
        ],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        pytest.skip("this Java runs no single source files (a JRE)")
    parts = done.stdout.decode().split("\0")
    assert dict(zip(parts[:-1:2], parts[1::2], strict=True)) == EXPECTED


@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0\f"), max_size=40))
def test_what_is_appended_reads_back(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    """Any passphrase survives, and what stood there before stays."""
    path = tmp_path_factory.mktemp("p") / "agent.properties"
    path.write_text("# kept\nold=1")
    properties.append(path, {"keystore.passphrase": value})
    assert properties.load(path) == {"old": "1", "keystore.passphrase": value}
    assert path.read_text().startswith("# kept\nold=1\n")


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    """A fresh host."""
    assert properties.load(tmp_path / "agent.properties") == {}
