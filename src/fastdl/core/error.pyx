# SPDX-License-Identifier: Apache-2.0
"""The only place where a C error becomes a Python exception."""
import errno as _errno
import os

from fastdl.errors import BY_CODE, REASONS, InternalError

from fastdl.core.c.err cimport FDL_NO_OFFSET, fdl_err
from fastdl.core.c.http cimport fdl_http_status_is_transient

cdef object exception_from(const fdl_err *err):
    text = (<bytes> err.what).decode("ascii", "replace")
    if err.os_errno:
        text = f"{text}: {os.strerror(err.os_errno)} ({_errno.errorcode.get(err.os_errno, '?')})"
    if err.http_status:
        text = f"{text} (status {err.http_status})"
    cls = BY_CODE.get(-err.code, InternalError)
    return cls(
        text,
        offset=None if err.offset == FDL_NO_OFFSET else err.offset,
        retryable=True if fdl_http_status_is_transient(err.http_status) else None,
        reason=REASONS[err.reason],
        http_status=err.http_status or None,
        retry_after_s=None if err.retry_after_s < 0 else err.retry_after_s,
        mirror=err.mirror if err.mirror >= 0 else None,
    )


cdef int check(long rc, const fdl_err *err) except -1:
    if rc >= 0:
        return 0
    raise exception_from(err)
