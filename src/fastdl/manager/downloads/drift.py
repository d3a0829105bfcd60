# SPDX-License-Identifier: Apache-2.0
"""Has the file at the origin changed since registration? A pure comparison."""

from __future__ import annotations

from collections.abc import Mapping

from fastdl.wire.messages import Validators


def drift(
    then: Validators,
    now: Validators,
    *,
    digests_then: Mapping[str, str] | None = None,
    digests_now: Mapping[str, str] | None = None,
) -> str | None:
    """Return in a sentence how *now* differs from *then*, None where nothing shows it.

    Digests decide where both sides know one of the same algorithm. Otherwise a size or a
    strong ETag that differs is a change; a date is one only where neither side has a tag;
    what one side does not know proves nothing.
    """
    digests_then, digests_now = digests_then or {}, digests_now or {}
    for name in sorted(digests_then.keys() & digests_now.keys()):
        if digests_then[name].lower() != digests_now[name].lower():
            return f"the {name} digest was {digests_then[name]} and is {digests_now[name]}"
    if digests_then.keys() & digests_now.keys():
        return None
    if None not in (then.size, now.size) and then.size != now.size:
        return f"the size was {then.size} bytes and is {now.size}"
    if then.etag and now.etag:
        weak = then.etag.startswith("W/") or now.etag.startswith("W/")
        if not weak and then.etag != now.etag:
            return f"the ETag was {then.etag} and is {now.etag}"
        return None
    if then.last_modified and now.last_modified and then.last_modified != now.last_modified:
        return f"the file was last modified {then.last_modified} and now {now.last_modified}"
    return None
