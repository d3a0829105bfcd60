# SPDX-License-Identifier: Apache-2.0
"""Run under callgrind: writes and reads back a journal of as many records as it is told.

Two runs that differ in their records alone give the instructions of one record.
"""

from __future__ import annotations

import sys

from fastdl.engine import journal


def main() -> None:
    """Encode and parse ``argv[1]`` records."""
    count = int(sys.argv[1])
    header = journal.Header(
        job="gate",
        target={"kind": "file", "device": 1, "inode": 2},
        validators={"http://127.0.0.1": {"etag": "gate"}},
        size=count << 20,
        digests={},
        block_size=1 << 20,
    )
    data = bytearray(journal.encode_header(header))
    seed = int.from_bytes(data[-4:], "little")
    for number in range(count):
        data += journal.encode_record(number, journal.Record(number << 20, 1 << 20, number), seed)
    if len(journal.parse(bytes(data)).records) != count:
        raise SystemExit("the journal lost records")


if __name__ == "__main__":
    main()
