# SPDX-License-Identifier: Apache-2.0

from fastdl.core.c.err cimport fdl_err


cdef extern from "net/tls.h" nogil:
    struct fdl_identity:
        pass
    int fdl_identity_from_pem(const char *cert, size_t cert_len, const char *key,
                              size_t key_len, const char *password, fdl_identity **out,
                              fdl_err *err)
