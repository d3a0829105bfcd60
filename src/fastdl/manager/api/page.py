# SPDX-License-Identifier: Apache-2.0
"""``docs/api.md``, written from the declarations: ``python -m fastdl.manager.api.page``."""

from __future__ import annotations

from fastdl.manager.api.registry import COMMANDS
from fastdl.manager.api.spec import Command

HEAD = """# The manager's API

Written by `python -m fastdl.manager.api.page`; a test keeps it current. Requests go to
`/client/api`, signed as CloudStack signs them, by GET or POST; `response=json` selects JSON,
anything else gets XML. `fastdl api` sends the same commands in CloudStack's verb-noun grammar.
Parameters in **bold** are required.

## Requests

- **Names** of parameters have letters, digits and `_ . : [ ] -` only; they match in any case, and
  one name in two spellings is refused. If a name is repeated the last value is used.
- **Signatures**: HMAC-SHA1 over CloudStack's canonical string. With `signatureVersion=3` a request
  must carry `expires`, to the second, and takes effect once: a replay of one that changed
  something gets 409, however it is spelled (order, letter case, blanks, GET or POST). Without a
  version it is accepted as in CloudStack, unless `api.signature.expiry.required` is true.
- **Sessions**: `login` (POST, `username` and `password` in the body) sets the cookies `JSESSIONID`
  and `sessionkey` and returns `sessionkey`, which every request repeats as a parameter:
  other sites cannot, so GET and POST are equivalent. A session ends after 30 minutes without a
  request, after a day, at `logout`, and when the user is disabled, locked, deleted, or gets
  another password or (from another session) new keys.
- **Lists**: no filter is ignored. Each parameter of a list command narrows the list, matches
  nothing if it concerns what fastdl does not have (projects, pods, tags), or is refused with
  431, like blank and unknown parameters: a script that deletes what it lists must not get
  everything. Text matches in any letter case.
- **Pages**: every list has pages. `page` (from 1) and `pagesize` come together; `count` is the
  number of rows on all pages. Whole numbers outside their range are refused.
- **Times** in filters are `2026-11-29`, `2026-11-29 12:00:00` or as in responses
  (`2026-11-29T12:00:00+0000`); UTC unless they name another zone. An end is inclusive.
- **Errors** use the envelope of the command: 401 not authenticated, 405 wrong method,
  409 a replay or a conflict, 429 too many requests, 431 a parameter, 432 no such command, 530 and
  above the command itself. Where no such command exists for the caller, the envelope is
  `errorresponse`.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(_section(COMMANDS[name]) for name in sorted(COMMANDS))


def _who(command: Command) -> str:
    if not command.admin:
        return "any user"
    return "administrators only" + (
        f", unless `{command.opened_by}` is true" if command.opened_by else ""
    )


def _section(command: Command) -> str:
    traits = [
        _who(command),
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
