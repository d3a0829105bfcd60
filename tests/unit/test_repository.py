# SPDX-License-Identifier: Apache-2.0
"""What holds for the repository as a whole: its rules, and what its documents claim."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fastdl.cli.main import VERBS
from scripts import errors_page, reliability
from tests.env import guide
from tests.env.command import run_fastdl
from tests.env.origin import pseudo_random

ROOT = Path(__file__).resolve().parents[2]
SOURCE = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh", ".mako"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
GUIDES = ("README.md", "docs/install.md", "docs/downloading.md", "docs/first-zone.md")


def tracked() -> list[Path]:
    """The files of the project; the test is skipped where git cannot tell them."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_every_source_names_its_licence() -> None:
    """A file that is copied elsewhere must not lose its licence."""
    scripts = {p for p in tracked() if p.read_bytes()[:2] == b"#!"}
    for path in {p for p in tracked() if p.suffix in SOURCE} | scripts:
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head), path


def test_every_module_says_what_it_answers() -> None:
    """The first lines tell a reader whether this is the file to open."""
    for path in tracked():
        if path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            assert re.match(r'(#.*\n)+\s*"""', text), path


def test_migrations_are_one_chain() -> None:
    """Two that follow the same one, written side by side, and no manager starts any more."""
    versions = ROOT / "src/fastdl/manager/ledger/migrations/versions"
    names = sorted(path.name for path in versions.glob("*.py"))
    for number, name in enumerate(names, 1):
        text = (versions / name).read_text()
        before = f'"{number - 1:04}"' if number > 1 else "None"
        assert name.startswith(f"{number:04}_")
        assert f'\nrevision = "{number:04}"\n' in text, name
        assert f"\ndown_revision = {before}\n" in text, name


def test_every_header_of_the_core_states_its_purpose() -> None:
    """The core is read by its headers."""
    headers = sorted((ROOT / "csrc").rglob("*.h"))
    assert headers
    for path in headers:
        name = path.relative_to(ROOT / "csrc").as_posix()
        assert path.read_text().splitlines()[1].startswith(f"/* {name} - "), path


def test_unit_tests_lie_where_what_they_test_lies() -> None:
    """``test_url.py`` is looked for in the folder of ``url.py``; other names are claims about the
    folder that they lie in."""
    source, unit = ROOT / "src/fastdl", ROOT / "tests/unit"
    modules: dict[str, set[Path]] = {}
    for path in (*source.rglob("*.py"), *source.rglob("*.pyx")):
        name = path.parent.name if path.name == "__init__.py" else path.stem
        folder = path.parent.relative_to(source)
        modules.setdefault(name, set()).add(folder)
    for path in unit.rglob("test_*.py"):
        folder = path.parent.relative_to(unit)
        if folder.parts[:1] == ("benchmarks",):
            continue
        assert (source / folder).is_dir(), path
        homes = modules.get(path.stem.removeprefix("test_"))
        assert homes is None or folder in homes, (path, homes)


def test_imports_keep_to_the_rings() -> None:
    """A wrong import is cheap to write and dear to undo."""
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_model_takes_urls_and_addresses_apart() -> None:
    """A second reader reads some of them otherwise, and connects where nobody looked."""
    readers = {"urlsplit", "urlparse", "urljoin", "inet_aton", "inet_pton", "ip_network"}
    readers |= {f"IPv{n}Network" for n in (4, 6)} | {
        f"is_{kind}" for kind in ("global", "private", "loopback", "link_local")
    }
    for path in (ROOT / "src" / "fastdl").rglob("*.py"):
        if path.parent.name == "model":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found = readers.intersection(alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute):
                found = readers & {node.attr}
            else:
                continue
            assert not found, f"{path}:{node.lineno}: {found}: use fastdl.model.url or .address"


def test_no_cancellation_is_swallowed_by_a_wait() -> None:
    """``asyncio.wait_for`` of Python 3.11 forgets one that comes as what it waits for happens, and
    whoever cancelled waits for ever: ``asyncio.timeout`` does not."""
    found = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "src/fastdl").rglob("*.py"))
        if "asyncio.wait_for(" in path.read_text()
    ]
    assert found == []


def test_no_error_is_wrapped_by_the_version_of_python() -> None:
    """Before 3.11.4, which Debian 12 is, an error raised in ``except*`` comes out in a group."""
    sources = (ROOT / "src").rglob("*.py")
    assert [path for path in sources if re.search(r"^\s+except\*", path.read_text(), re.M)] == []


def test_the_page_of_errors_is_the_table_of_errors() -> None:
    """``python -m scripts.errors_page`` writes it anew."""
    assert errors_page.PAGE.read_text(encoding="utf-8") == errors_page.page()


def test_the_pages_of_promises_have_the_figures_of_the_ledgers() -> None:
    """``python -m scripts.reliability`` writes them anew."""
    for path, text in reliability.pages().items():
        assert path.read_text(encoding="utf-8") == text, path
    promises = reliability.sections((reliability.PAGES / "reliability.md.in").read_text())
    assert [promise.number for promise in promises] == list(range(1, len(promises) + 1))
    assert all(promise.test for promise in promises)


def locked_versions(lock: str) -> dict[str, str]:
    """What *lock* pins, by canonical name; every entry carries digests of its files."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pin, *digests = line.split()
            name, _, version = pin.partition("==")
            assert version, line
            assert digests, f"{lock}: {pin} has no digest"
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", d) for d in digests), pin
            found[canonicalize_name(name)] = version
    return found


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ()), ("requirements-dev.lock", ("dev", "scale", "libvirt"))],
)
def test_a_lock_holds_every_dependency_at_an_allowed_version(
    lock: str, extras: tuple[str, ...]
) -> None:
    """A lock that pyproject.toml contradicts would fail a newcomer's first command."""
    locked = locked_versions(lock)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    optional = PROJECT["optional-dependencies"]
    for text in [
        *build,
        *PROJECT["dependencies"],
        *(t for extra in extras for t in optional[extra]),
    ]:
        wanted = Requirement(text)
        assert str(wanted.specifier).startswith(">="), f"{text}: a floor, no ceiling"
        version = locked.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not in {lock}: scripts/lock"
        assert version in wanted.specifier, f"{text}, but {lock} says {version}"


def test_nothing_names_the_place_where_it_was_made() -> None:
    """The sources speak of the project; a path or host of one machine helps nobody."""
    words = ("/wo" + "rk/", "py" + "pi.org", "python" + "hosted.org", "npm" + "js.org")
    for path in tracked():
        data = path.read_bytes()
        found = [word for word in words if word.encode() in data]
        assert not found, f"{path}: {found}"


def test_links_between_documents_lead_somewhere() -> None:
    """A reader who follows a link must not end at nothing."""
    for path in tracked():
        if path.suffix == ".md":
            for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
                if "://" not in link and not link.startswith("mailto:"):
                    assert (path.parent / link).exists(), f"{path}: {link}"


def test_every_document_is_reachable_from_the_index() -> None:
    """A page that nothing leads to is read by nobody."""
    found: set[Path] = set()
    todo = [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop().resolve()
        if page in found or page.suffix != ".md":
            continue
        found.add(page)
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        todo += [page.parent / link for link in links if "://" not in link]
    pages = set((ROOT / "docs").rglob("*.md"))
    assert pages <= found, sorted(map(str, pages - found))


def test_the_commands_of_the_guides_exist(tmp_path: Path) -> None:
    """Nothing disappoints like a first command that is not there."""
    found = [
        command.text.replace("\\\n", " ")
        for name in GUIDES
        for block in guide.blocks((ROOT / name).read_text())
        for command in block.commands
    ]
    assert len(found) > 20
    helps: dict[str, str] = {}
    for command in found:
        for script in re.findall(r"(?:^|\s)((?:scripts|\.ci)/[\w.-]+)", command):
            assert (ROOT / script).exists(), command
        for part in re.split(r"[|;&]+", command):
            words = part.split()
            if not words or words[0] != "fastdl" or words[1].startswith("-"):
                continue
            verb = words[1]
            assert verb in VERBS, command
            if verb not in helps:
                words = ["--help", "all"] if verb == "get" else ["--help"]
                helps[verb] = run_fastdl([verb, *words], home=tmp_path / "home").stdout
            for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", part):
                assert option in helps[verb], f"{command}: {verb} has no {option}"


def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example is run as it stands, with an image of this machine for the URL."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    content = pseudo_random(5, 300_000)
    source = tmp_path / "source.img"
    source.write_bytes(content)
    code = re.sub(r'"https://[^"]+"', repr(source.as_uri()), blocks[0])
    code = re.sub(r"[0-9a-f]{64}", hashlib.sha256(content).hexdigest(), code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert (tmp_path / "image.iso").read_bytes() == content
    assert "strong" in capsys.readouterr().out


def test_the_promises_name_tests_that_exist() -> None:
    """A promise is worth as much as the test behind it: a renamed test must be renamed there."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    current = ""
    named = re.findall(r"(tests/[\w/]+\.py)::(test_\w+)|`(test_\w+)`", text)
    assert len(named) > 20
    for path, first, other in named:
        if path:
            current = (ROOT / path).read_text()
        elif other == "test_a_fault_ends_as_its_case_says" and not current:
            continue  # the introduction names it before any file
        assert f"def {first or other}(" in current, first or other


def test_the_promises_name_cases_that_exist() -> None:
    """An id of the fault matrix without its file would prove nothing."""
    text = (ROOT / "docs" / "reliability.md").read_text().partition("## 1.")[2]
    ids = set(re.findall(r"\b[HTMS]\d\d\b", text))
    assert ids
    cases = {path.stem for path in (ROOT / "tests" / "adversity" / "cases").glob("*.toml")}
    assert ids <= cases
