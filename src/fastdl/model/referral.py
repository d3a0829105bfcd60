# SPDX-License-Identifier: Apache-2.0
"""May this URL be used, checked from its text and from who named it? (``address`` checks where
its host really is, at each connection.)

Three kinds of people name URLs: the operator, on the command line and in files of his host; a
tenant, in a command that an agent carries out (the strict policy); and servers, in redirects,
metalinks and Link fields. A local metalink is the operator's.
"""

from __future__ import annotations

from fastdl.model.url import Url

_HOP_PORTS = frozenset({80, 443, 2049})
_OPERATORS = frozenset({"uid", "gid"})


def refused_source(url: Url, policy: str = "user") -> str | None:
    """Return why *url* may not be a source named by a command under *policy*, or None."""
    if policy == "strict" and _OPERATORS.intersection(url.nfs_options):
        return "uid and gid of an nfs URL are the operator's to choose"
    return None


def refused_referral(url: Url, referrer: Url) -> str | None:
    """Return why *referrer*, or a document that came from there, may not lead to *url*, or None.

    From https to http is decided elsewhere: a strong digest may allow it.
    """
    if url.scheme == "file":
        return "nobody may lead to a local file"
    if referrer.scheme == "file":
        return None
    if url.scheme == "nfs" and referrer.is_http:
        return f"{referrer.scheme} may not lead to nfs"
    if url.nfs_options:
        return "parameters of an nfs URL are the operator's to choose"
    if (url.host, url.port) == (referrer.host, referrer.port):
        return None
    return refused_port(url.port)


def refused_port(port: int) -> str | None:
    """Return why a redirect, a metalink or a link may not lead to *port*, or None if it may."""
    if port >= 1024 or port in _HOP_PORTS:
        return None
    return f"nobody may lead to port {port}: below 1024 only 80, 443 and 2049 are followed"
