# SPDX-License-Identifier: Apache-2.0
"""What does a case file say? One TOML file per case id, its variants as data.

Keys at the top of a file are the defaults of its ``[[variant]]`` tables. In every string
``{o1}``, ``{o2}``… are the origins' URLs, ``{tmp}`` the case's folder and ``{canary}`` a
secret; :func:`words_for` lists them all.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "cases"
IMAGE = "/image.raw"
_WORD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One origin of a case. ``versions`` are seeds of content, each with a validator.

    ``etag`` and ``last_modified`` may use {version}; an empty string leaves the field out.
    ``identity`` names the certificate shown over https, ``name`` the host in its URL;
    a ``plain`` origin speaks http even where the case runs over https.
    """

    rules: tuple[dict[str, Any], ...] = ()
    versions: tuple[int, ...] = (1, 2, 3)
    etag: str = '"v{version}"'
    last_modified: str = "Mon, 01 Jan 2024 00:00:0{version} GMT"
    headers: tuple[tuple[str, str], ...] = ()
    identity: str = "good"
    name: str = "127.0.0.1"
    tls_version: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One variant of one case, as its file gives it.

    ``expect`` are the permitted exit codes; with 0 the target must hold version
    ``holds`` of the content. ``checksum``: v1, v2, wrong or none.
    """

    id: str
    name: str
    what: str
    expect: tuple[int, ...]
    holds: int = 1
    transports: tuple[str, ...] = ("http", "https")
    sinks: tuple[str, ...] = ("file", "loop")
    size: int = 1024 * 1024
    content: str = "random"
    checksum: str = "v1"
    sources: tuple[str, ...] = ("{o1}" + IMAGE + "?sig={canary}",)
    options: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = (Origin(),)
    trust: str = "ca"
    files: Mapping[str, str] = field(default_factory=dict)
    metalink: str = ""
    metalink_type: str = "application/metalink4+xml"
    target: str = "absent"
    device: Mapping[str, Any] = field(default_factory=dict)
    untouched: bool = False
    never_requested: tuple[str, ...] = ()
    unvisited: tuple[int, ...] = ()
    max_requests: int = 10_000
    integrity: str = ""
    warning: str = ""
    says: str = ""
    timeout: float = 30

    def runs(self, *, full: bool) -> Iterator[tuple[str, str]]:
        """The (transport, sink) pairs to run: all, or each transport and each sink once.

        Which transport meets which sink then changes from variant to variant.
        """
        if full or len(self.transports) == 1 or len(self.sinks) == 1:
            yield from itertools.product(self.transports, self.sinks)
            return
        turn = len(self.name) % len(self.sinks)
        yield from zip(self.transports, self.sinks[turn:] + self.sinks[:turn], strict=True)


def load_cases(folder: Path = CASES) -> list[Case]:
    """Every variant of every case file, in the order of their ids."""
    return [case for path in sorted(folder.glob("*.toml")) for case in read_case_file(path)]


def read_case_file(path: Path) -> list[Case]:
    """The variants of one file; an unknown key is an error, so that no case says nothing."""
    table = tomllib.loads(path.read_text())
    variants = table.pop("variant", [{}])
    if table.get("id") != path.stem:
        raise ValueError(f"{path.name}: id is {table.get('id')!r}")
    return [_case({"name": "only", **table, **variant}, path) for variant in variants]


def _case(table: dict[str, Any], path: Path) -> Case:
    origins = table.pop("origins", None) or [{}]
    if "rules" in table:
        origins = [{**origins[0], "rules": table.pop("rules")}, *origins[1:]]
    known = {f.name for f in dataclasses.fields(Case)}
    if unknown := table.keys() - known:
        raise ValueError(f"{path.name}: unknown keys {sorted(unknown)}")
    if isinstance(table.get("expect"), int):
        table["expect"] = [table["expect"]]
    frozen = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items()}
    return Case(**frozen, origins=tuple(_origin(origin) for origin in origins))


def _origin(table: dict[str, Any]) -> Origin:
    return Origin(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})


def words_for(content: bytes, bases: Sequence[str]) -> dict[str, str]:
    """What the braces of a case's strings stand for: *content* is the first version's bytes.

    Origins: o1…, port1…, url1… (a ``url`` element); digests: size, md5, sha256, sha256_b64;
    parts of a metalink: begin, root, end, size and hash together as whole, hash, pieces;
    and monsters: x300, x5000, z64, mib9, deep, many.
    """
    digest = hashlib.sha256(content)
    words = {
        "scheme": bases[0].partition(":")[0],
        "size": str(len(content)),
        "md5": hashlib.md5(content).hexdigest(),
        "sha256": digest.hexdigest(),
        "sha256_b64": base64.b64encode(digest.digest()).decode(),
        "root": "<metalink xmlns='urn:ietf:params:xml:ns:metalink'>",
        "end": "</metalink>",
        "hash": f"<hash type='sha-256'>{digest.hexdigest()}</hash>",
        "pieces": _pieces(content, 256 * 1024),
        "x300": "x" * 300,
        "x5000": "x" * 5000,
        "z64": "z" * 64,
        "mib9": "m" * (9 * 1024 * 1024),
        "deep": "<d>" * 10_000 + "</d>" * 10_000,
        "many": "<description/>" * 100_000,
    }
    words["begin"] = f"<?xml version='1.0' encoding='UTF-8'?>{words['root']}"
    words["whole"] = f"<size>{len(content)}</size>{words['hash']}"
    for number, base in enumerate(bases, 1):
        words[f"o{number}"] = base
        words[f"port{number}"] = base.rpartition(":")[2]
        words[f"url{number}"] = f"<url>{base}{IMAGE}</url>"
    return words


def _pieces(content: bytes, length: int) -> str:
    """The ``pieces`` element of RFC 5854 for *content* in pieces of *length* bytes."""
    hashes = "".join(
        f"<hash>{hashlib.sha256(content[at : at + length]).hexdigest()}</hash>"
        for at in range(0, len(content), length)
    )
    return f"<pieces length='{length}' type='sha-256'>{hashes}</pieces>"


def fill(value: Any, words: Mapping[str, str]) -> Any:
    """*value* with each ``{word}`` of *words* put in, through lists and tables."""
    if isinstance(value, str):
        return _WORD.sub(lambda found: words.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: fill(inner, words) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [fill(inner, words) for inner in value]
    return value
