# SPDX-License-Identifier: Apache-2.0
"""Which C libraries is the build linked against? Adds them to a CycloneDX document.

``python scripts/sbom_libraries.py python.json`` prints the document with one component for each
Debian package that owns a shared library of ``fastdl.core``, and with fastdl's own version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fastdl
import fastdl.core


def linked_libraries() -> list[Path]:
    """The shared libraries that the extensions load, as the loader resolves them."""
    found: set[Path] = set()
    for extension in Path(fastdl.core.__path__[0]).glob("*.so"):
        done = subprocess.run(["ldd", str(extension)], capture_output=True, text=True, check=True)
        found.update(Path(path) for path in re.findall(r"=> (/\S+)", done.stdout))
    return sorted(path.resolve() for path in found)


def debian_package(library: Path) -> tuple[str, str] | None:
    """Name and version of the package that owns *library*; None if dpkg knows none."""
    # Packages may list a file by its path before or after /usr was merged.
    spellings = {str(library), str(library).removeprefix("/usr"), f"/usr{library}"}
    for path in sorted(spellings):
        done = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            name = done.stdout.split(": ")[0].split(",")[0]
            show = ["dpkg-query", "-W", "-f", "${source:Package} ${Version}", name]
            shown = subprocess.run(show, capture_output=True, text=True, check=True)
            source, _, version = shown.stdout.partition(" ")
            return source, version
    return None


def component(name: str, version: str) -> dict[str, Any]:
    """A Debian source package as a component."""
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    """Print the document of the file named on the command line, completed."""
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    packages = {found for path in linked_libraries() if (found := debian_package(path))}
    document["metadata"]["component"]["version"] = fastdl.__version__
    document.setdefault("components", []).extend(component(*each) for each in sorted(packages))
    json.dump(document, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
