# SPDX-License-Identifier: Apache-2.0
"""A process that downloads without end: what comes of it is known before.

``python -m scripts.soaking.downloads BASE FOLDER DIGESTS`` works until it reads ``end``; to each
line that it reads it says how often what ended how.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import fastdl
from fastdl.errors import FastdlError

AT_A_TIME = 4
WANTED = {
    "raw": {"ok"}, "gz": {"ok"}, "qcow2": {"ok"}, "mirrors": {"ok"}, "wrong": {"INTEGRITY"},
    "absent": {"HTTP_STATUS"}, "cancel": {"ok", "CANCELLED"},
}  # fmt: skip
"""How each kind may end."""


def download(base: str, digests: dict[str, str], folder: Path) -> None:
    """Work until stdin ends; a line for each finished second says how often what ended how."""
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    over = threading.Event()

    def work(number: int) -> None:
        rng = random.Random(number)  # noqa: S311
        while not over.is_set():
            kind = rng.choice(("raw", "gz", "qcow2", "wrong", "absent", "mirrors", "cancel"))
            end = _once(kind, base, digests, folder / f"{kind}-{number}", rng)
            with lock:
                ends[f"{kind} {end}"] += 1

    workers = [threading.Thread(target=work, args=(n,)) for n in range(AT_A_TIME)]
    for worker in workers:
        worker.start()
    for line in sys.stdin:
        with lock:
            print(json.dumps(ends), flush=True)
        if line.strip() == "end":
            break
    over.set()
    for worker in workers:
        worker.join()


def _once(kind: str, base: str, digests: dict[str, str], target: Path, rng: random.Random) -> str:
    """One download; how it ended."""
    path = kind if kind in digests else "raw"
    sources = [f"{base}/{path}"]
    checksum = f"sha-256:{digests[path]}"
    options: dict[str, Any] = {"target_format": "raw"}
    cancel, timer = fastdl.Cancel(), None
    if kind == "wrong":
        checksum = f"sha-256:{'0' * 64}"
    elif kind == "absent":
        sources = [f"{base}/nothing"]
    elif kind == "mirrors":
        sources = ["http://127.0.0.1:9/raw", *sources]
    elif kind == "cancel":
        sources = [f"{base}/slow"]
        timer = threading.Timer(rng.uniform(0.02, 0.4), cancel.cancel)
        timer.start()
    try:
        fastdl.fetch_sync(sources, target, checksum=checksum, cancel=cancel, **options)
    except FastdlError as exc:
        return exc.code_name
    else:
        return "ok"
    finally:
        if timer is not None:
            timer.cancel()
        target.unlink(missing_ok=True)


if __name__ == "__main__":
    download(sys.argv[1], json.loads(sys.argv[3]), Path(sys.argv[2]))
