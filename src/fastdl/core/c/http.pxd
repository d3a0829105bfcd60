# SPDX-License-Identifier: Apache-2.0


cdef extern from "http/http.h" nogil:
    struct fdl_str:
        const char *ptr
        size_t len
    struct fdl_http_field:
        fdl_str name
        fdl_str value
    struct fdl_http_head:
        int status
        size_t n_fields
        fdl_http_field *fields
    bint fdl_http_status_is_transient(int status)
