# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.err cimport fdl_err

cdef int check(long rc, const fdl_err *err) except -1
cdef object exception_from(const fdl_err *err)
