# SPDX-License-Identifier: Apache-2.0
"""Sizes, rates and times: what is understood, what is refused, what is shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdl.errors import UsageError
from fastdl.model.units import (
    MAX_SIZE,
    format_duration,
    format_rate,
    format_size,
    parse_rate,
    parse_seconds,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 MB", 64 << 20),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("2T", 2 << 40),
        (" 7K ", 7 << 10),
        (str(MAX_SIZE), MAX_SIZE),
    ],
)
def test_a_size_is_read_as_written(text: str, size: int) -> None:
    """Suffixes are powers of 1024, however they are spelled."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "M", "-1", "+1", "1e3", "0x10", "1.M", ".5M", "0.3K", "1.5", "1iB", "1P", "1 0", "٣",
     "9" * 20, str(MAX_SIZE + 1), "9999999999T", "1_000", "1,5G", "64M\n", "64MM"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    """A size that is guessed fills a disk."""
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.integers(0, MAX_SIZE))
def test_every_size_in_bytes_reads_back(size: int) -> None:
    """The plain number is always a valid size."""
    assert parse_size(str(size)) == size


@given(st.integers(0, 2**22), st.sampled_from("KMGT"))
def test_a_suffix_multiplies_exactly(count: int, suffix: str) -> None:
    """No rounding happens on the way, whatever the unit."""
    assert parse_size(f"{count}{suffix}") == count * 1024 ** (" KMGT".index(suffix))


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    """The command line never shows a traceback for an option's value."""
    for parse in (parse_size, parse_rate, parse_seconds):
        try:
            assert parse(text) >= 0
        except UsageError as exc:
            refusal = exc.message
            assert refusal.isprintable()


@pytest.mark.parametrize("text", ["10M", "10M/s", "10MiB/s", "10 MB/S", "10Mps"])
def test_a_rate_may_say_per_second(text: str) -> None:
    """People write what other tools print."""
    assert parse_rate(text) == 10 << 20


def test_a_rate_of_zero_is_refused() -> None:
    """Other tools mean "no limit" by it; here it would stop the transfer."""
    with pytest.raises(UsageError, match="omit the option"):
        parse_rate("0")


def test_seconds_may_have_fractions() -> None:
    """Timeouts below a second are useful in tests and on fast networks."""
    assert parse_seconds("0.25") == 0.25
    assert parse_seconds("30s") == 30.0
    assert parse_seconds("30") == 30.0


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e9", "5m", "99999999999", "400000000"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """A timeout that is never reached is no timeout."""
    with pytest.raises(UsageError):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 50, "5.0 PiB"),
    ],
)
def test_a_size_is_shown_short(size: int, shown: str) -> None:
    """No value is shown as 1024 of a unit."""
    assert format_size(size) == shown


def test_a_rate_is_shown_per_second() -> None:
    """The unit says that it is a rate."""
    assert format_rate(10 << 20) == "10.0 MiB/s"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0s"), (4.24, "4.2s"), (59.96, "1m 00s"), (200, "3m 20s"), (3599.7, "1h 00m"),
     (7500, "2h 05m"), (86400 * 3 + 4 * 3600, "3d 04h"), (None, "-"), (math.inf, "-"),
     (math.nan, "-"), (-1, "-")],
)  # fmt: skip
def test_a_duration_is_shown_short(seconds: float | None, shown: str) -> None:
    """An unknown remaining time is a dash, never a number that looks known."""
    assert format_duration(seconds) == shown
