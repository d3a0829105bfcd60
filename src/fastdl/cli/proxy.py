# SPDX-License-Identifier: Apache-2.0
"""Which proxies does the environment name? Read as in curl, only by the command line.

Library, agent and manager take theirs from options and settings: variables inherited by a service
must not decide where its downloads go.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastdl.engine.options import Proxies


def proxies_from(
    environ: Mapping[str, str], *, proxy: str | None, exempt: str | None
) -> Proxies | None:
    """The proxies of a command; None where it needs none.

    *proxy* and *exempt* are the options: they win, and an empty one says that there is none.
    ``http_proxy`` counts in lower case only, since a CGI script finds a client's ``Proxy``
    field in ``HTTP_PROXY``; of the others lower case wins. An empty variable is as if unset.
    """

    def first(*names: str) -> str | None:
        return next((value for name in names if (value := environ.get(name))), None)

    if proxy is not None:
        http = https = proxy or None
    else:
        http = first("http_proxy", "all_proxy", "ALL_PROXY")
        https = first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    if http is None and https is None:
        return None
    if exempt is None:
        exempt = first("no_proxy", "NO_PROXY")
    return Proxies(http, https, exempt or None)
