# SPDX-License-Identifier: Apache-2.0
"""Does the code decide by fields of errors, and never by their sentences?

A sentence is reworded by whoever reads it aloud; a decision that was read out of it changes
with it, and no test of either notices.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src" / "fastdl"

SEARCHES = {
    *("startswith", "endswith", "find", "index", "count", "split", "partition", "rpartition"),
    *("search", "match", "fullmatch", "findall", "finditer"),
}

ONLY_WORDS = {"errors.py: shortage", "wire/nats/connection.py: _connect"}
"""Python's threads and the dynamic linker say only in words what was short, and a NATS server that
it does not know who connects; the words are theirs.
"""


class Lint(ast.NodeVisitor):
    """Finds decisions by an error's text, and fields that are put into an error from outside."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str, str]] = []
        self._where = ["<module>"]
        self._caught: list[set[str]] = [set()]

    def _note(self, node: ast.AST, what: str) -> None:
        self.found.append((getattr(node, "lineno", 0), self._where[-1], what))

    def _is_error(self, node: ast.expr) -> bool:
        """Whether *node* is a name that holds an exception."""
        return isinstance(node, ast.Name) and (
            node.id in {"exc", "error", "err"} or any(node.id in names for names in self._caught)
        )

    def _is_sentence(self, node: ast.expr) -> bool:
        """Whether *node* is what an error says, or made of that alone."""
        match node:
            case ast.Call(func=ast.Name(id="str" | "repr"), args=[inner]):
                return self._is_error(inner)
            case ast.Attribute(value=ast.Name(id="self")):
                return False
            case ast.Attribute(attr="message" | "strerror"):
                return True
            case ast.Subscript(value=ast.Attribute(attr="args", value=inner)):
                return self._is_error(inner)
            case ast.Call(func=ast.Attribute(attr="lower" | "upper" | "strip", value=inner)):
                return self._is_sentence(inner)
            case ast.JoinedStr(values=values):
                return any(
                    isinstance(v, ast.FormattedValue) and self._is_sentence(v.value) for v in values
                )
        return False

    def visit(self, node: ast.AST) -> None:
        """Each node, by its kind."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
                return
            case ast.Assign(targets=targets):
                self._assigned(node, targets)
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                self._assigned(node, [target])
        super().visit(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.args, *node.args.kwonlyargs]
        self._where.append(node.name)
        self._caught.append(
            {
                a.arg
                for a in arguments
                if isinstance(a.annotation, ast.Name) and a.annotation.id.endswith("Error")
            }
        )
        self.generic_visit(node)
        self._caught.pop()
        self._where.pop()

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """What a handler catches is an error inside it."""
        self._caught.append({node.name} if node.name else set())
        self.generic_visit(node)
        self._caught.pop()

    def visit_Compare(self, node: ast.Compare) -> None:
        """``"…" in str(exc)``, ``exc.message == "…"`` and the like."""
        if any(map(self._is_sentence, [node.left, *node.comparators])):
            self._note(node, "a decision by a sentence")
        self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> None:
        """``match str(exc):``."""
        if self._is_sentence(node.subject):
            self._note(node, "a decision by a sentence")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """``str(exc).startswith("…")``, ``PATTERN.search(str(exc))``, ``getattr(exc, "…")``."""
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in SEARCHES:
            if any(map(self._is_sentence, [function.value, *node.args])):
                self._note(node, "a decision by a sentence")
        elif isinstance(function, ast.Name) and node.args and self._is_error(node.args[0]):
            if function.id in {"getattr", "hasattr"}:
                self._note(node, "an attribute of an error that it may not have")
            elif function.id in {"setattr", "delattr"}:
                self._note(node, "a field put into an error from outside")
        self.generic_visit(node)

    def _assigned(self, node: ast.stmt, targets: list[ast.expr]) -> None:
        for target in targets:
            if isinstance(target, ast.Attribute) and self._is_error(target.value):
                self._note(node, "a field put into an error from outside")


def findings(text: str) -> list[tuple[int, str, str]]:
    """(line, function, what) of each finding in *text*."""
    lint = Lint()
    lint.visit(ast.parse(text))
    return lint.found


def everywhere() -> Iterator[str]:
    """Each finding in the sources, with where it is."""
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        for line, function, what in findings(path.read_text(encoding="utf-8")):
            if f"{name}: {function}" not in ONLY_WORDS:
                yield f"{name}:{line}: {function}: {what}"


def test_no_decision_is_made_by_what_an_error_says() -> None:
    """Declare a ``Reason`` or a field of ``FastdlError`` instead."""
    assert list(everywhere()) == []


@pytest.mark.parametrize(
    "line",
    [
        'if "space" in str(exc): pass',
        'if "space" in str(exc).lower(): pass',
        'if exc.message == "gone": pass',
        'if exc.args[0] != "gone": pass',
        'if str(exc).startswith("gone"): pass',
        "found = PATTERN.search(str(exc))",
        'found = PATTERN.search(f" {exc.message}")',
        'after = getattr(exc, "retry_after", None)',
        "exc.retry_after = 3",
        'exc.message += " more"',
        'setattr(exc, "phase", "fetch")',
        "match str(exc):\n    case 'gone': pass",
    ],
)
def test_the_lint_sees_each_way_to_do_it(line: str) -> None:
    """A rule that overlooks a spelling only moves the fault there."""
    body = "\n    ".join(line.splitlines())
    assert findings(f"try:\n    pass\nexcept ValueError as exc:\n    {body}\n")


@pytest.mark.parametrize(
    "line",
    [
        "if exc.http_status == 429: pass",
        "if exc.reason is Reason.NEEDS_STAGING: pass",
        'text = f"{exc.message}: again"',
        "if isinstance(exc, OSError) and exc.errno == 28: pass",
        'exc.add_context(phase="fetch")',
    ],
)
def test_fields_may_decide_and_sentences_may_be_shown(line: str) -> None:
    """The rule forbids nothing that is right."""
    assert not findings(f"try:\n    pass\nexcept ValueError as exc:\n    {line}\n")
