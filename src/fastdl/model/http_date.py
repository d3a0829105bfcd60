# SPDX-License-Identifier: Apache-2.0
"""The date of an HTTP field (RFC 9110, 5.6.7), in the one form that servers send today."""

from __future__ import annotations

import re

_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_http_date(text: str) -> int | None:
    """Seconds since 1970; None where *text* is no date of the years 1970 to 9999.

    (email.utils would be loaded into every confined process for this alone.)
    """
    match = _DATE.fullmatch(text.strip(" \t"))
    if match is None or match[2] not in _MONTHS:
        return None
    day, year = int(match[1]), int(match[3])
    month = _MONTHS.index(match[2]) + 1
    hour, minute, second = int(match[4]), int(match[5]), int(match[6])
    if year < 1970 or not 1 <= day <= _DAYS[month - 1] or hour > 23 or minute > 59 or second > 60:
        return None
    # Days since 1970 in the Gregorian calendar, with years that begin in March.
    y = year - (month <= 2)
    days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day
    return (days - 719469) * 86400 + hour * 3600 + minute * 60 + second
