# SPDX-License-Identifier: Apache-2.0
"""Writes docs/errors.md from fastdl.errors, so that the page cannot disagree with the code.

python -m scripts.errors_page            writes the page
python -m scripts.errors_page --check    exits 1 if the page is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastdl.errors import BY_CODE, FastdlError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"

GROUPS = {
    2: "The command",
    10: "The network and the origin",
    20: "What was downloaded",
    30: "The target",
    40: "Resuming",
    50: "The keystore",
    60: "The manager's API",
    70: "Agents, and bugs",
    130: "You",
}

WHAT_TO_DO = {
    2: "Read the message and `fastdl VERB --help`.",
    10: "Check the name, the route and the proxy; run the same command again to resume.",
    11: "Report 404 and 403 to the publisher of the URL; 5xx and 429 pass: run it again.",
    12: "The origin or something in between is broken. Name another mirror.",
    13: "Run it again: it starts over with the new version. Get a checksum of that version.",
    14: "Give the authority with `--cacert`, or import it into the host's keystore.",
    15: "Name the final address itself, allow the network (`--allow`), or give a checksum.",
    20: "Tell the metalink's publisher; or give a mirror and `--checksum` yourself.",
    21: "Do not use the bytes. Check the checksum's origin, then the disqualified mirrors.",
    22: "The metalink or the checksum's line describes a different file than the mirrors serve.",
    23: "Name the format with `--source-format` if it was guessed wrong; or rebuild the image.",
    24: "Convert the image into one that stands alone, on a machine that you can lose.",
    25: "If you trust the source, raise the limit that the message names.",
    26: "Compare the name in the list with the URL's: add `#NAME` to the list's URL for another.",
    30: "Free space, or use a larger device.",
    31: "Check the kernel's log: the disk or the storage behind it fails.",
    32: "Unmount or stop what uses the target, or wait for the other job.",
    33: "Check the name of the target. `--overwrite` says what may be destroyed.",
    40: "Run it again: the journal was discarded, and it starts from the beginning.",
    41: "Run it again: the old data is not trusted, and it starts from the beginning.",
    50: "Check the passphrase file.",
    51: "Restore the keystore from a backup, or let the host's own setup make it again.",
    52: "Upload another certificate; the message says what is wrong with this one.",
    53: "Choose another alias, or delete the old certificate first.",
    60: "Check the keys, the session and the clocks.",
    61: "Correct the parameter that the message names.",
    62: "Check the current state first.",
    63: "Wait a moment; send fewer requests.",
    70: "Check the link and that the other side runs; work resumes by itself.",
    71: "Enrol the agent again with a new token.",
    72: "Give the host a newer kernel and run its agent as root; or allow `best-effort`.",
    74: "Report it with the output of `FASTDL_DEBUG=1 fastdl …`.",
    130: "Run the same command again to resume.",
}

HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by scripts/errors_page.py from src/fastdl/errors.py: edit those. -->
# Errors and exit codes

Every failure has exactly one class. The class is the exit code of the command line, the `class` of
the JSON that `--json` and the agent print, and the exception that Python raises. These numbers are
a stable contract.

**0** means: verified as far as a checksum was known, written, flushed to stable storage, published.
With any other code the target is what it was before, or unusable on purpose; never half new.

With `--json` a failure prints one object on stdout:

```json
{"error": {"code": 21, "class": "INTEGRITY", "message": "…", "phase": "verify",
           "origin": "https://mirror.example/i.iso", "offset": 0, "retryable": false,
           "reason": null, "http_status": null, "retry_after_s": null, "public_source": true}}
```

*Retry*: the same command may succeed later although nobody changed anything (an error of one
response can say otherwise: `retryable` is what counts). *Other host*: another host may succeed
where this one failed.
"""


def _row(cls: type[FastdlError]) -> str:
    meaning = " ".join((cls.__doc__ or "").split())
    again = "yes" if cls.default_retryable else "no"
    elsewhere = "yes" if cls.default_elsewhere else "no"
    return (
        f"| {cls.exit_code} | {cls.code_name} | `{cls.__name__}` | {meaning} | {again} "
        f"| {elsewhere} | {WHAT_TO_DO[cls.exit_code]} |"
    )


def page() -> str:
    """The whole page as it should be."""
    parts = [HEAD]
    starts = sorted(GROUPS)
    for start, end in zip(starts, [*starts[1:], 1000], strict=True):
        parts += [
            f"## {GROUPS[start]}\n",
            "| code | class | in Python | meaning | retry | other host | what to do |",
            "|---|---|---|---|---|---|---|",
            *(_row(BY_CODE[code]) for code in sorted(BY_CODE) if start <= code < end),
            "",
        ]
    return "\n".join(parts).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    if arguments == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
