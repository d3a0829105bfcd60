# SPDX-License-Identifier: Apache-2.0
"""What origin rules make of the options of a job: its way out, its pace, whose word it needs."""

from __future__ import annotations

from collections.abc import Sequence

from fastdl.engine.options import FetchOptions, Proxies
from fastdl.model.url import Url
from fastdl.sources.origin_rules import Rules, mirrors_of, rule_for


def under_rules(options: FetchOptions, sources: Sequence[str]) -> FetchOptions:
    """*options* as the rules for *sources* have them; what the caller asked for is narrowed, and
    the proxy replaced.

    Mirrors, headers, connections and blocks are of each URL, wherever it comes from: ``Draft``.
    """
    rules = options.origin_rules
    if not rules:
        return options
    urls = [Url.parse(source) for source in sources]
    found = [rule for url in urls if (rule := rule_for(rules, url)) is not None]
    rates = [r for r in (options.limit_rate, *(rule.limit_rate for rule in found)) if r]
    redirects = [r.follow_redirects for r in found if r.follow_redirects is not None]
    keyrings = [rule.keyring for rule in found if rule.keyring is not None]
    return options._replace(
        limit_rate=min(rates, default=None),
        follow_redirects=all(redirects) if redirects else options.follow_redirects,
        keyring=options.keyring or next(iter(keyrings), None),
        proxy=_proxies(options.proxy, rules, urls),
    )


def _proxies(given: Proxies | None, rules: Rules, urls: Sequence[Url]) -> Proxies | None:
    """The first source's way; hosts whose rules say so are reached straight."""
    everyone = [*urls, *(mirror for url in urls for mirror in mirrors_of(rules, url))]
    ways = [(url, rule.proxy) for url in everyone if (rule := rule_for(rules, url)) is not None]
    chosen = next((proxy for _, proxy in ways if proxy), None)
    ways_out = given if chosen is None else Proxies(chosen, chosen, given and given.exempt)
    if ways_out is None:
        return None
    straight = dict.fromkeys(url.host for url, proxy in ways if proxy == "")
    exempt = ",".join(filter(None, (ways_out.exempt, *straight)))
    return ways_out._replace(exempt=exempt or None)
