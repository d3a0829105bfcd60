# SPDX-License-Identifier: Apache-2.0
"""How far are the manager's downloads? A bar for each, until the last one has ended."""

from __future__ import annotations

import json
import time

from fastdl.cli import streams
from fastdl.cli.api_client import ApiClient, job_result
from fastdl.cli.progress import Display, Slot, make_display
from fastdl.cli.zone_options import Row
from fastdl.engine.options import Progress
from fastdl.errors import ApiConflictError
from fastdl.model.units import format_size

POLL_S = 1.0
LINES_S = 10.0
"""Without a terminal: seconds between two lines about a download."""
_OVER = frozenset({"DONE", "FAILED", "CANCELLED"})
_WAITING = {
    "QUEUED": "its turn",
    "GRANTED": "the host to start",
    "RETRY_WAIT": "its next attempt",
    "WAITING": "its host to come back",
    "CANCELLING": "the host to stop",
}


def watch(api: ApiClient, template: str | None, *, job: str | None = None, as_json: bool) -> int:
    """Show the downloads of *template* (None: of all) until none is left; return 0.

    *job*: the async job that they belong to; its refusal is raised. Without one, ApiConflictError
    if a download that was watched failed.
    """
    display = make_display("none" if as_json else "auto", quiet=False, interval=LINES_S)
    slots: dict[str, Slot] = {}
    while True:
        # The job before its downloads: all that it started are in the list when it has ended.
        state = api("queryAsyncJobResult", jobid=job) if job else None
        rows = [row for row in _downloads(api, template) if "jobid" in row]
        for row in rows:
            _show(display, slots, row)
        display.tick()
        running = state["jobstatus"] == 0 if state else any(r["state"] not in _OVER for r in rows)
        if not running:
            break
        time.sleep(POLL_S)
    display.close()
    watched = rows if job else [row for row in rows if row["jobid"] in slots]
    _report(watched, as_json=as_json)
    if state is not None:
        job_result(state)
    elif failed := [row for row in watched if row["state"] == "FAILED"]:
        raise ApiConflictError(f"{len(failed)} of {len(watched)} downloads failed")
    return 0


def _downloads(api: ApiClient, template: str | None) -> list[Row]:
    return api.rows("listTemplateDownloads", "templatedownload", templateid=template)


def _show(display: Display, slots: dict[str, Slot], row: Row) -> None:
    """One that had ended before anybody looked gets no bar."""
    job, over = row["jobid"], row["state"] in _OVER
    if job not in slots:
        if over:
            return
        slots[job] = display.add(f"{row['templatename']} to {row['storagename']}")
        display.expect(len(slots))
    slot = slots[job]
    if not slot.ended:
        slot.show(_progress(row))
        if over:
            display.end(slot)


def _progress(row: Row) -> Progress:
    done, rate = row.get("bytes") or 0, row.get("rate") or 0
    return Progress(
        done=done,
        received=done,
        total=row.get("totalbytes"),
        fetched=row.get("fetchedbytes") or 0,
        rate=rate,
        average=rate,
        eta=row.get("eta"),
        stage=row.get("stage") or "resolve",
        mirrors=len(row.get("mirrors") or ()),
        waiting=_WAITING.get(row["state"], ""),
    )


def _report(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        streams.say(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        where = f"{row['templatename']} to {row['storagename']}"
        if row["state"] == "DONE":
            size = format_size(row.get("bytes") or 0)
            streams.say(f"{where}: done, {size}, integrity {row.get('integrity') or 'unknown'}")
        else:
            reason = f": {row['error']}" if row.get("error") else ""
            streams.say(f"{where}: {row['state'].lower()}{reason}")
    if not rows:
        streams.note("nothing is being downloaded")
