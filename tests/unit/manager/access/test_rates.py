# SPDX-License-Identifier: Apache-2.0
"""Are callers counted apart, forgotten in order, and given back what they did not use?"""

from __future__ import annotations

import pytest

from fastdl.errors import ApiLimitError
from fastdl.manager.access import rates
from fastdl.manager.access.rates import Buckets, Quotas, Rates, network_of


def test_rates_are_per_caller_and_refill() -> None:
    """Twice the rate at once, then the rate."""
    made = Rates()
    for _ in range(20):
        made.take("a", per_second=10, now=0.0)
    with pytest.raises(ApiLimitError):
        made.take("a", per_second=10, now=0.0)
    made.take("b", per_second=10, now=0.0)
    made.take("a", per_second=10, now=0.2)


def test_buckets_are_bounded_and_give_back() -> None:
    """Ten thousand callers are remembered, no more; what is given back can be taken again."""
    made = Buckets()
    for n in range(rates.BUCKETS_MAX + 10):
        assert made.take(str(n), depth=1, per_second=0, now=0.0)
    assert not made.take(str(rates.BUCKETS_MAX), depth=1, per_second=0, now=0.0)
    assert made.take("0", depth=1, per_second=0, now=0.0)
    assert not made.take("0", depth=1, per_second=0, now=0.0)
    made.give_back("0")
    assert made.take("0", depth=1, per_second=0, now=0.0)


def test_quotas_are_per_account_and_start_again() -> None:
    """CloudStack counts requests of an account within an interval, not their rate."""
    made = Quotas()
    for _ in range(3):
        made.take("a", most=3, interval=2, now=10.0)
    with pytest.raises(ApiLimitError, match="please retry after 1500 ms"):
        made.take("a", most=3, interval=2, now=10.5)
    made.take("b", most=3, interval=2, now=10.5)
    made.take("a", most=3, interval=2, now=12.0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_an_ipv6_network_is_one_caller(address: str, network: str) -> None:
    """Every customer has 2^64 addresses to come from."""
    assert network_of(address) == network
