# SPDX-License-Identifier: Apache-2.0
from fastdl.core cimport cfdl


cdef class Net:
    cdef cfdl.fdl_net *_ptr


cdef class Cancel:
    cdef cfdl.fdl_wakeup _wakeup


cdef class Mirror:
    cdef cfdl.fdl_mirror *_ptr


cdef class Stream:
    cdef cfdl.fdl_stream *_ptr
    cdef cfdl.fdl_conn_times _times
    cdef readonly Net net
    cdef readonly Mirror mirror
    cdef readonly Cancel cancel
    cdef cfdl.fdl_stream *open_ptr(self) except NULL
    cdef cfdl.fdl_stream *take(self) except NULL
