# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int64_t, uint64_t


cdef extern from "base/err.h" nogil:
    enum:
        FDL_OK
        FDL_E_CANCELLED
        FDL_ERR_WHAT_MAX
    struct fdl_err:
        int code
        int os_errno
        int reason
        int http_status
        int mirror
        int64_t retry_after_s
        uint64_t offset
        char what[120]
    const uint64_t FDL_NO_OFFSET
    void fdl_err_clear(fdl_err *err)
