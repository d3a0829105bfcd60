# SPDX-License-Identifier: Apache-2.0
"""Objects of a store as sources: the manager signs a link each time a host is told to fetch.

So hosts hold no credentials, and the ledger holds no links. Where the manager has no credentials,
links are not signed: everybody may read the object, or the store refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from fastdl.errors import ApiParamError, FastdlError, TrustError, UsageError
from fastdl.manager.settings import Settings
from fastdl.model.url import MAX_SENT_URL, Url
from fastdl.publishers.s3 import SCHEME, Signing, is_object, parse_object, signed_url
from fastdl.wire.messages import Failure

log = logging.getLogger(__name__)

ENDPOINT: Final = "direct.download.s3.endpoint"
BUCKETS: Final = "direct.download.s3.buckets"
LIFETIME: Final = "direct.download.s3.link.lifetime"
_REFUSED: Final = frozenset({400, 401, 403})
"""S3 says 403 for a link that has expired, and 400 for credentials that have."""


def check_object(settings: Settings, source: str, *, admin: bool) -> None:
    """ApiParamError where *source* is no object that this user may have signed for them."""
    try:
        wanted = parse_object(source)
    except UsageError as exc:
        raise ApiParamError(f"Please specify a valid URL: {exc}") from None
    if not admin and wanted.bucket not in settings.words(BUCKETS):
        raise ApiParamError(f"Please specify a valid URL: the bucket is not listed in {BUCKETS}")


def location(settings: Settings, source: str) -> Url:
    """Where the object *source* is, without a signature. Blocks: credentials may be asked for.

    ApiParamError: no link can be made.
    """
    try:
        url = Url.parse(_link(settings, source), most=MAX_SENT_URL)
    except FastdlError as exc:
        raise ApiParamError(f"Please specify a valid URL: {exc.message}") from None
    return url._replace(query=None)


def linked(settings: Settings, sources: Sequence[str]) -> tuple[str, ...]:
    """*sources* with fresh links in the place of objects. Blocks.

    One for which none can be made stays as it is, which the host then refuses; the log says why.
    """
    return tuple(_or_itself(settings, one) if is_object(one) else one for one in sources)


def may_have_expired(failure: Failure, args: str) -> bool:
    """Whether a job with *args* (JSON) may have failed because its link was too old."""
    return failure.http_status in _REFUSED and f'"{SCHEME}' in args


def _or_itself(settings: Settings, source: str) -> str:
    try:
        return _link(settings, source)
    except FastdlError as exc:
        log.error("an object's link cannot be signed", extra={"object": source, "why": str(exc)})
        return source


def _link(settings: Settings, source: str) -> str:
    """A link to *source*: signed, or not where there are no credentials, or they fail."""
    how = Signing(
        endpoint=settings.text(ENDPOINT) or None,
        seconds=settings.whole(LIFETIME),
        anonymous=None,
    )
    try:
        return signed_url(source, how)
    except TrustError as exc:
        log.error("the credentials of the object store fail", extra={"why": str(exc)})
        return signed_url(source, how._replace(anonymous=True))
