# SPDX-License-Identifier: Apache-2.0
"""Sources that stand for a URL which has to be found first: products, objects of a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastdl.errors import FastdlError, HttpStatusError

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.options import FetchOptions
    from fastdl.engine.source.facts import Product

MAX_RENEWALS = 1000
"""Each takes as long as a link lasts."""
_UNKNOWN_LASTS_S = 5.0
"""A link that does not say how long it lasts is not refused sooner for its age."""
_EARLY_S = 1.0
_REFUSED = frozenset({400, 401, 403})
"""S3 says 403 for a link that has expired, and 400 for credentials that have."""


class Sources:
    """What a job is about, and the URLs and paths that stand for it now.

    ``urls``: what to request. ``product``: what the publisher of a product says of its file.
    """

    def __init__(self, given: Sequence[str], options: FetchOptions, cancel: Cancel) -> None:
        self._given = list(given)
        self.urls = self._given
        self.product: Product | None = None
        self._signing = (
            options.presign,
            options.s3_endpoint,
            options.s3_expires,
            options.s3_anonymous,
        )
        self._renewals = 0
        self._signed_at = time.time()
        if any(source[:14].lower() == "simplestreams:" for source in self._given):
            from fastdl.engine.source.products import with_product

            self.urls, self.product = with_product(self._given, options, cancel)
        self._objects = any(source[:5].lower() == "s3://" for source in self._given)
        if self._objects:
            self._sign()

    def renew(self, exc: FastdlError) -> bool:
        """Whether *exc* says that signed links have expired; then there are new ones now."""
        if not self._objects or self._renewals >= MAX_RENEWALS:
            return False
        if not isinstance(exc, HttpStatusError) or exc.http_status not in _REFUSED:
            return False
        if not self._have_expired():
            return False
        self._renewals += 1
        self._sign()
        return True

    def _sign(self) -> None:
        from fastdl.publishers.s3 import Signing, is_object, signed_url

        how = Signing(*self._signing)
        self._signed_at = time.time()
        self.urls = [signed_url(one, how) if is_object(one) else one for one in self._given]

    def _have_expired(self) -> bool:
        from fastdl.model.url import MAX_SENT_URL, Url
        from fastdl.publishers.signed_links import expires_at

        now = time.time()
        pairs = zip(self._given, self.urls, strict=True)
        signed = [Url.parse(url, most=MAX_SENT_URL) for given, url in pairs if given != url]
        ends = [expires_at(url.query) or self._signed_at + _UNKNOWN_LASTS_S for url in signed]
        return bool(ends) and min(ends) - _EARLY_S <= now
