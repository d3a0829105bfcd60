# SPDX-License-Identifier: Apache-2.0
from fastdl.core cimport cfdl

cdef int check(long rc, const cfdl.fdl_err *err) except -1
cdef object exception_from(const cfdl.fdl_err *err)
