# SPDX-License-Identifier: Apache-2.0
"""Which files does a metalink describe?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.engine.context import TransferContext
from fastdl.engine.rules import under_rules
from fastdl.engine.source.documents import fetch_document
from fastdl.errors import MetalinkError, Reason
from fastdl.model.url import Url
from fastdl.sources.locate import with_login
from fastdl.sources.metalink import file_names
from fastdl.sources.metalink_xml import MAX_DOCUMENT

if TYPE_CHECKING:
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.options import FetchOptions


def metalink_names(source: str, options: FetchOptions, cancel: Cancel) -> tuple[str, ...]:
    """The names of the files in the metalink at *source*, each a job for a folder.

    MetalinkError: two would have the same name there; else as ``resolve``.
    """
    ctx = TransferContext(under_rules(options, [source]), cancel)
    url = Url.parse(source)
    headers = with_login(url, options.headers, options.credentials)
    found = fetch_document(ctx, url, MAX_DOCUMENT, what="the metalink", headers=headers)
    names = file_names(found.data)
    last = [name.rpartition("/")[2] for name in names]
    if len(set(last)) < len(last):
        raise MetalinkError(
            "two files of the metalink would have the same name in one folder: fetch them one by "
            "one (--metalink-file)",
            phase="resolve",
            reason=Reason.SEVERAL_FILES,
        )
    return names
