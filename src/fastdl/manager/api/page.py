# SPDX-License-Identifier: Apache-2.0
"""``docs/api.md``, written from the declarations: ``python -m fastdl.manager.api.page``."""

from __future__ import annotations

from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Command

HEAD = """# The manager's API

Written by `python -m fastdl.manager.api.page`; a test keeps it current. Requests go to
`/client/api`, signed as CloudStack signs them, by GET or POST; `response=json` asks for JSON,
anything else gets XML. `fastdl api` speaks the same commands in CloudStack's verb-noun grammar.
Parameters in **bold** are required.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(_section(COMMANDS[name]) for name in sorted(COMMANDS))


def _section(command: Command) -> str:
    traits = [
        "administrators only" if command.admin else "any user",
        "asynchronous (answers a jobid)" if command.is_async else "synchronous",
    ]
    lines = [f"\n## {command.name}\n\n{command.text} ({', '.join(traits)}).\n"]
    if command.params:
        lines.append("\n| parameter | type | meaning |\n|---|---|---|\n")
    for param in command.params:
        name = f"**{param.name}**" if param.required else param.name
        default = f" (default {str(param.default).lower()})" if param.default is not None else ""
        lines.append(f"| {name} | {param.kind.value} | {param.text}{default} |\n")
    return "".join(lines)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - this is what it is for
