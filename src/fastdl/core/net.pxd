# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.conn cimport fdl_conn_times
from fastdl.core.c.mirror cimport fdl_mirror
from fastdl.core.c.net cimport fdl_net
from fastdl.core.c.stream cimport fdl_stream
from fastdl.core.c.wakeup cimport fdl_wakeup


cdef class Net:
    cdef fdl_net *_ptr


cdef class Wakeup:
    cdef fdl_wakeup _wakeup


cdef class Mirror:
    cdef fdl_mirror *_ptr


cdef class Stream:
    cdef fdl_stream *_ptr
    cdef fdl_conn_times _times
    cdef readonly Net net
    cdef readonly Mirror mirror
    cdef readonly Wakeup wakeup
    cdef fdl_stream *open_ptr(self) except NULL
    cdef fdl_stream *take(self) except NULL
