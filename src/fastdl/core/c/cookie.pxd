# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int64_t

from fastdl.core.c.http cimport fdl_str


cdef extern from "http/cookie.h" nogil:
    struct fdl_cookies:
        pass
    struct fdl_cookie_location:
        const char *host
        const char *target
        bint tls
    void fdl_cookies_take(fdl_cookies *jar, const fdl_cookie_location *location,
                          fdl_str set_cookie, int64_t now_s)
