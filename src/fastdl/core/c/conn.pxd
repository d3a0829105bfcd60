# SPDX-License-Identifier: Apache-2.0


cdef extern from "net/conn.h" nogil:
    struct fdl_conn_times:
        pass
