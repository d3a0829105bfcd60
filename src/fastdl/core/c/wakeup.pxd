# SPDX-License-Identifier: Apache-2.0

from fastdl.core.c.err cimport fdl_err


cdef extern from "net/wakeup.h" nogil:
    struct fdl_wakeup:
        int fd
    int fdl_wakeup_init(fdl_wakeup *wakeup, fdl_err *err)
    void fdl_wakeup_destroy(fdl_wakeup *wakeup)
    void fdl_wakeup_cancel(fdl_wakeup *wakeup)
